"""`knowledge`: what is known, taking an answer back, moving answers, and how far semantic answers are trusted."""

from __future__ import annotations

import getpass
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from infra.cli.knowledge_shelf import Entry
    from infra.settings import Settings

_EXAMPLES = """Examples:
  ./headrace knowledge list --contains Paris
  ./headrace knowledge show 1ea954c3
  ./headrace knowledge retract 1ea954c3 --reason "out of date"
  ./headrace knowledge export > known.jsonl
  ./headrace knowledge import known.jsonl
  ./headrace knowledge scopes
  ./headrace knowledge reopen 8c1f --reason "the judge was wrong, looked at by hand\""""
_GONE_S = 10.0

As_json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tenant = Annotated[str, typer.Option(help="Only this tenant's.")]
Reason = Annotated[str, typer.Option(help="Why: it stands on the log for good.")]
By = Annotated[str, typer.Option(help="Who does it.", show_default="your user name")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Show and correct what is known.")
    for name, command in (
        ("list", list_entries), ("show", show), ("retract", retract), ("export", export), ("import", import_file),
        ("scopes", scopes), ("reopen", reopen),
    ):  # fmt: skip
        group.command(name, epilog=_EXAMPLES)(command)
    app.add_typer(group, name="knowledge", epilog=_EXAMPLES)


def list_entries(
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many of the newest.")] = 20,
    tenant: Tenant = "",
    contains: Annotated[str, typer.Option(help="Only those whose question or answer contains this, whatever its case.")] = "",
    retracted: Annotated[bool, typer.Option("--retracted", help="Those that were retracted instead.")] = False,
    as_json: As_json = False,
) -> None:
    """List what is known, newest first."""
    from infra.cli.knowledge_shelf import open_shelf
    from infra.cli.output import out, print_json, print_table
    from schemas.knowledge import AnswerRetracted

    with open_shelf(_settings()) as shelf:
        kept = [e for e in shelf.entries.values() if isinstance(e.event, AnswerRetracted) == retracted]
    kept = [e for e in kept if (not tenant or e.event.tenant == tenant) and contains.lower() in _texts(e).lower()]
    kept = sorted(kept, key=_when, reverse=True)[:number]
    if as_json:
        print_json([_as_object(e) for e in kept])
    elif kept:
        rows = [(e.event.entry_id[:12], _time(_when(e)), e.event.tenant, *_two_texts(e)) for e in kept]
        print_table(("entry", "when", "tenant", "question", "answer"), rows, wrapped="answer")
    else:
        out().print("nothing is known" if not (tenant or contains or retracted) else "nothing fits")


def show(entry: Annotated[str, typer.Argument(help="The entry's id, or its beginning.")], as_json: As_json = False) -> None:
    """Show an entry: its answer, where it comes from, and what was observed of it."""
    from infra.cli.knowledge_shelf import open_shelf
    from infra.cli.output import out, print_json

    with open_shelf(_settings()) as shelf:
        found = shelf.find(entry)
        scope = shelf.scopes.get(_scope_of(found))
    if as_json:
        print_json({**_as_object(found), "scope": None if scope is None else scope.to_dict()})
        return
    for name, fact in _facts(found):
        out().print(f"{name:<14} {fact}", markup=False)
    if scope is not None:
        out().print(f"{'scope':<14} {scope.scope[:12]} is {scope.status}: {scope.reason}", markup=False)
    for seen in found.observations:
        out().print(f"{'observed':<14} {'the same' if seen.same else 'another answer'} at score {seen.score:.3f}", markup=False)


def retract(
    entry: Annotated[str, typer.Argument(help="The entry's id, or its beginning.")],
    reason: Reason,
    by: By = "",
    as_json: As_json = False,
) -> None:
    """Take an answer back: no agent serves it again, and the same text is never learned for it again."""
    from infra.cli.knowledge_shelf import open_shelf
    from infra.cli.output import mark, out, print_json

    settings = _settings()
    with open_shelf(settings) as shelf:
        event = shelf.retract(shelf.find(entry), reason, by or getpass.getuser())
    waited = _wait_until_gone(settings, event.entry_id)
    if as_json:
        print_json({**event.to_dict(), "gone_after_ms": waited})
        return
    gone = f"no agent serves it any more ({waited} ms)" if waited is not None else "Redis still has it: see ./headrace status"
    out().print(f"{mark(waited is not None)} {event.entry_id[:12]} retracted; {gone}")


def export(tenant: Tenant = "") -> None:
    """Write all answers as JSON lines to standard output. The first line tells under which digest secret they were made."""
    from infra.cli.knowledge_shelf import as_line, open_shelf, secret_mark
    from infra.cli.output import err
    from schemas.knowledge import AnswerLearned

    settings = _settings()
    with open_shelf(settings) as shelf:
        learned = [e.event for e in shelf.entries.values() if isinstance(e.event, AnswerLearned) and tenant in ("", e.event.tenant)]
    sys.stdout.write(json.dumps({"headrace": "knowledge", "secret": secret_mark(settings)}) + "\n")
    for event in learned:
        sys.stdout.write(json.dumps(as_line(event), ensure_ascii=False) + "\n")
    err().print(f"{len(learned)} entries")


def import_file(file: Annotated[Path, typer.Argument(help="What `export` wrote.", exists=True, dir_okay=False)], by: By = "") -> None:
    """Make answers of a file known. What was retracted with the same text stays retracted."""
    import msgspec

    from infra.cli.knowledge_shelf import OtherSecret, from_line, open_shelf, secret_mark
    from infra.cli.output import mark, out

    settings, cause = _settings(), f"imported by {by or getpass.getuser()}"
    with file.open(encoding="utf-8") as lines:
        try:
            head = json.loads(next(lines, "null"))
            if not isinstance(head, dict) or head.get("headrace") != "knowledge":
                raise ValueError("the first line is not an export's")
            learned = [from_line(json.loads(line), cause) for line in lines if line.strip()]
        except (ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
            raise typer.BadParameter(f"{file} is no export of knowledge: {error}") from error
    if head.get("secret") != secret_mark(settings):
        reason = "its entries were made under another digest secret, so no request would ever find them"
        raise OtherSecret("other_secret", reason, "give both installations the same digest-secret (credentials.json)")
    with open_shelf(settings) as shelf:
        count = shelf.add(learned)
    out().print(f"{mark(True)} {count} entries published, {len(learned) - count} stay retracted")


def scopes(as_json: As_json = False) -> None:
    """List how far semantic answers are trusted, scope by scope."""
    from infra.cli.knowledge_shelf import open_shelf
    from infra.cli.output import out, print_json, print_table

    with open_shelf(_settings()) as shelf:
        found = sorted(shelf.scopes.values(), key=lambda s: s.assessed_at, reverse=True)
    if as_json:
        print_json([s.to_dict() for s in found])
    elif found:
        rows = [(s.scope[:12], s.tenant, s.model, s.status, str(s.checked), str(s.wrong), s.reason) for s in found]
        print_table(("scope", "tenant", "model", "status", "checked", "wrong", "reason"), rows, wrapped="reason")
    else:
        out().print("no semantic answer was checked yet")


def reopen(scope: Annotated[str, typer.Argument(help="The scope's digest, or its beginning.")], reason: Reason, by: By = "") -> None:
    """Let a scope that was shut off serve semantic answers again. It begins as a new one: every hit is checked."""
    from infra.cli.knowledge_shelf import open_shelf
    from infra.cli.output import mark, out

    with open_shelf(_settings()) as shelf:
        event = shelf.reopen(shelf.scope(scope), reason, by or getpass.getuser())
    out().print(f"{mark(True)} {event.scope[:12]} will be opened again as a new scope")


def _settings() -> Settings:
    from infra.settings import Settings

    return Settings()


def _wait_until_gone(settings: Settings, entry_id: str) -> int | None:
    """Milliseconds until Redis, which every hit is read from, no longer has the answer; None where it still has."""
    import time

    from connectors.redis.answers import AnswersAway, is_known

    start = time.monotonic()
    while time.monotonic() - start < _GONE_S:
        try:
            if not is_known(settings.redis, entry_id):
                return int((time.monotonic() - start) * 1000)
        except AnswersAway:  # the retraction is on the log all the same
            return None
        time.sleep(0.02)
    return None


def _when(entry: Entry) -> int:
    from schemas.knowledge import AnswerLearned

    return entry.event.learned_at if isinstance(entry.event, AnswerLearned) else entry.event.retracted_at


def _two_texts(entry: Entry) -> tuple[str, str]:
    """Question and answer; of a retracted one who took it away and why."""
    from schemas.knowledge import AnswerLearned

    event = entry.event
    if isinstance(event, AnswerLearned):
        return (event.question.text[:60] if event.question else "—", event.text)
    return ("—", f"retracted by {event.retracted_by}: {event.reason}")


def _texts(entry: Entry) -> str:
    from schemas.knowledge import AnswerLearned

    event = entry.event
    if not isinstance(event, AnswerLearned):
        return event.reason
    return f"{event.question.text if event.question else ''}\n{event.text}"


def _scope_of(entry: Entry) -> str:
    from schemas.knowledge import AnswerLearned

    return entry.event.question.scope if isinstance(entry.event, AnswerLearned) and entry.event.question else ""


def _facts(entry: Entry) -> list[tuple[str, str]]:
    from schemas.knowledge import AnswerLearned

    event = entry.event
    place = f"knowledge.answers/{entry.partition}/{entry.offset}"
    if not isinstance(event, AnswerLearned):
        told = f"{_time(event.retracted_at)} by {event.retracted_by}: {event.reason}"
        return [("entry", f"{event.entry_id}   ({place})"), ("tenant", event.tenant), ("retracted", told)]
    facts = [
        ("entry", f"{event.entry_id}   ({place})"), ("tenant", event.tenant), ("model", event.model),
        ("learned", f"{_time(event.learned_at)} from request {event.learned_from}: {event.cause}"),
    ]  # fmt: skip
    if event.question is not None:
        facts += [("question", event.question.text), ("embedding", event.question.embedding_version)]
    return [*facts, ("answer", event.text)]


def _as_object(entry: Entry) -> dict[str, Any]:
    from infra.cli.knowledge_shelf import as_line
    from schemas.knowledge import AnswerLearned

    event = entry.event
    fields = as_line(event) if isinstance(event, AnswerLearned) else event.to_dict()
    return {
        "event": type(event).__name__, "partition": entry.partition, "offset": entry.offset, **fields,
        "observations": [seen.to_dict() for seen in entry.observations],
    }  # fmt: skip


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
