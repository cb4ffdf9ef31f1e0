"""`ask`: one question, its answer token by token, and one line about how it came about."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from connectors.kafka.client import RequestClient
    from schemas.events import Final, InferenceRequested

LATER_S = 6.0  # beyond the deadline: the sweeper fails overdue requests within 5 s of its own or Kafka's recovery
_EXAMPLES = """Examples:
  ./headrace ask "What is the capital of France?"
  ./headrace ask --system "Answer in one word." --max-tokens 8 "Is fire hot?"
  ./headrace ask --no-cache --temperature 0.7 --seed 1 "Write a haiku about rivers."
  ./headrace ask --json "What is 2 + 2?" | jq .text
  ./headrace ask --idempotency-key order-17 --temperature 1 "Thank the customer."
  ./headrace ask --task classify "what's my bank balance"
  ./headrace ask --label yes --label no "Is fire hot?"
  ./headrace ask --task embed --json "rivers" | jq .embedding
  git diff | ./headrace ask --deadline 120 -"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLES)(ask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command line says about requests."""

    tenant: str
    task: str = "generate"
    model: str = ""
    system: str = ""
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    cache: str = "default"
    deadline_s: float | None = None
    idempotency_key: str | None = None


def ask(
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    *,
    task: Annotated[str, typer.Option(help="generate, classify (one of a shipped classifier's labels) or embed.")] = "generate",
    model: Annotated[str, typer.Option(help="Model to ask; empty for the task's default.")] = "",
    system: Annotated[str, typer.Option(help="System prompt.")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens to generate.")] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token; sampled answers are not learned.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that make up this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer before this text. May be given again.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Answer with one of these, word for word. May be given again.")] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Whether a known answer may be served.")] = True,
    store: Annotated[bool, typer.Option("--store/--no-store", help="Whether to learn the answer; --no-store implies --no-cache.")] = True,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which an answer is of no use.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key and request get the same answer, for a day.")] = None,
    tenant: Annotated[str, typer.Option(help="Tenant to ask for; empty for the first one of the settings.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
) -> None:
    """Ask a question and watch its answer come.

    The answer goes to standard output, everything about it to standard error. Exit code 1 where there is no answer.
    """
    from infra.cli import connecting
    from infra.settings import Settings

    settings = Settings()
    asked = Asked(
        tenant=tenant or settings.tenants[0], task=task, model=model, system=system, max_tokens=max_tokens, temperature=temperature,
        top_p=top_p, seed=seed, stop=tuple(stop or ()), labels=tuple(label or ()), deadline_s=deadline, idempotency_key=idempotency_key,
        cache="no-store" if not store else "default" if cache else "no-cache",
    )  # fmt: skip
    text = sys.stdin.read() if prompt == "-" else prompt
    client = connecting.request_client(settings, asked.tenant)
    try:
        request = make_request(asked, [("user", text)])
        client.submit(request)
        wait_s = min(deadline or settings.default_deadline_s, settings.max_deadline_s) + LATER_S
        final, ms = _follow(client, request.request_id, wait_s, shown=not as_json)
    finally:
        client.close()
    if as_json:
        _print_result(request, final, ms)
    elif final is not None:
        _print_end(final, ms)
    else:
        _print_no_final(request.request_id, wait_s)
    raise typer.Exit(0 if final is not None and hasattr(final, "tier") else 1)


def make_request(asked: Asked, turns: list[tuple[str, str]]) -> InferenceRequested:
    """A request of now with a new id. The system prompt goes in front of the turns."""
    from schemas.events import InferenceRequested, Message, Parameters
    from schemas.ids import uuid7

    now_ms = time.time_ns() // 1_000_000
    before = [("system", asked.system)] if asked.system else []
    return InferenceRequested(
        request_id=uuid7(now_ms), tenant=asked.tenant, task=asked.task, model=asked.model, cache=asked.cache, requested_at=now_ms,
        messages=tuple(Message(role=role, content=content) for role, content in (*before, *turns)),
        parameters=Parameters(
            max_tokens=asked.max_tokens, temperature=asked.temperature, top_p=asked.top_p, seed=asked.seed, stop=asked.stop,
            labels=asked.labels,
        ),
        idempotency_key=asked.idempotency_key,
        deadline_at=None if asked.deadline_s is None else now_ms + int(asked.deadline_s * 1000),
    )  # fmt: skip


def result(request_id: str, final: Final | None, ms: float) -> dict[str, Any]:
    """A final event and the client's own time as one JSON object; where none came, code is no_final."""
    if final is None:
        reason = "no final event came before the deadline"
        told: dict[str, Any] = {"code": "no_final", "reason": reason, "retryable": True, "remedy": f"./headrace trace {request_id}"}
    else:
        told = final.to_dict()
    return {"ok": "tier" in told, **told, "request_id": request_id, "total_ms": round(ms, 1)}


def _follow(client: RequestClient, request_id: str, wait_s: float, *, shown: bool) -> tuple[Final | None, float]:
    """Print what comes; the final event, and ms from the sending until it came."""
    began = time.monotonic()
    for told in client.listen(wait_s):
        if told.text and shown:
            sys.stdout.write(told.text)
            sys.stdout.flush()
        if told.final is not None:
            ms = (time.monotonic() - began) * 1000
            if shown:
                _print_rest(client.shown(request_id), _whole(told.final))
            return told.final, ms
    return None, (time.monotonic() - began) * 1000


def _whole(final: Final) -> str:
    """An answer's text, or its vector as a JSON array on one line."""
    vector = getattr(final, "embedding", ())
    return json.dumps(vector) if vector else str(getattr(final, "text", ""))


def _print_rest(shown: str, whole: str) -> None:
    """The final text is the truth: what the tokens did not give is added, and where they differ it is printed whole."""
    if whole.startswith(shown):
        sys.stdout.write(whole[len(shown) :])
    elif whole:
        sys.stdout.write(f"\n[the whole answer, which differs from what was streamed:]\n{whole}")
    if shown or whole:
        sys.stdout.write("\n")
    sys.stdout.flush()


def _print_result(request: InferenceRequested, final: Final | None, ms: float) -> None:
    from infra.cli.output import print_json
    from schemas.events import InferenceCompleted
    from streams.story import hops

    way = {hop.name: hop.ms for hop in hops(final)} if isinstance(final, InferenceCompleted) else {}
    print_json({**result(request.request_id, final, ms), "hops_ms": way})


def _print_end(final: Final, ms: float) -> None:
    from rich.markup import escape

    from infra.cli.failures import Failure
    from infra.cli.output import err, print_failure
    from schemas.events import InferenceCompleted
    from streams.story import hops

    if not isinstance(final, InferenceCompleted):
        again = " (the same request may succeed later)" if final.retryable else ""
        print_failure(Failure(f"{final.code}: {final.reason}{again}", final.remedy))
    else:
        way = ", ".join(f"{hop.name} {hop.ms} ms" for hop in hops(final))
        cut = f" [yellow]cut by {final.finish_reason}[/]" if final.finish_reason != "stop" else ""
        err().print(f"[cyan]{final.tier}[/] [dim]{escape(final.reason)} · {way} · total {ms:.0f} ms[/]{cut}")
    err().print(f"[dim]request {final.request_id} · its story: ./headrace trace {final.request_id}[/]")


def _print_no_final(request_id: str, wait_s: float) -> None:
    from infra.cli.failures import Failure
    from infra.cli.output import print_failure

    message = f"no final event came within {wait_s:.0f} s, so services or Kafka were away; the request {request_id} is on the log"
    print_failure(Failure(message, f"see how far it came: ./headrace trace {request_id}   and what is wrong: ./headrace doctor"))
