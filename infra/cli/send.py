"""`send`: a file of prompts, a bounded number of them under way, each answer written as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.ask import Asked

if TYPE_CHECKING:
    from infra.cli.prompts import BadLine, Prompt
    from infra.cli.sending import Sending, Summary

_EXAMPLES = """Examples:
  ./headrace send prompts.jsonl > answers.jsonl
  ./headrace send prompts.jsonl --output answers.jsonl --in-flight 128
  echo '"What is the capital of Spain?"' | ./headrace send -
  ./headrace send prompts.jsonl --rate 20 --deadline 120 --strict

A line is a JSON string, or an object such as
  {"id": "q1", "prompt": "Is ice cold?", "parameters": {"max_tokens": 16}}
  {"messages": [{"role": "user", "content": "Is ice cold?"}], "model": "smollm2-135m-instruct"}
  {"task": "classify", "prompt": "what is my balance"}
  {"prompt": "Is ice cold?", "parameters": {"labels": ["yes", "no"]}}"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLES.replace("[", r"\["))(send)


def send(
    file: Annotated[str, typer.Argument(help="File with one prompt a line; - for standard input.")],
    *,
    output: Annotated[Path | None, typer.Option(help="Write the answers here instead of to standard output.")] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="The most requests under way at once.")] = 64,
    rate: Annotated[float, typer.Option(min=0, help="The most requests sent per second; 0 for no bound.")] = 0.0,
    task: Annotated[str, typer.Option(help="Task of lines that name none: generate, classify or embed.")] = "generate",
    model: Annotated[str, typer.Option(help="Model of lines that name none.")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens to generate where a line doesn't say.")] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Whether known answers may be served.")] = True,
    deadline: Annotated[float | None, typer.Option(help="Seconds for each request, from its sending.")] = None,
    tenant: Annotated[str, typer.Option(help="Tenant to ask for; empty for the first one of the settings.")] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Check all lines first, and send nothing when one is bad.")] = False,
) -> None:
    """Send a file of prompts, and write each answer as a JSON line when it comes.

    Exit code 1 if any request got no answer, or a line was bad. Ctrl-C prints the summary of what was done so far.
    """
    from infra.cli import connecting
    from infra.cli.prompts import read_prompts
    from infra.cli.sending import Deadlines, Sending
    from infra.settings import Settings

    settings = Settings()
    defaults = Asked(
        tenant=tenant or settings.tenants[0], task=task, model=model, max_tokens=max_tokens, deadline_s=deadline,
        cache="default" if cache else "no-cache",
    )  # fmt: skip
    with ExitStack() as closing:
        lines = sys.stdin if file == "-" else closing.enter_context(Path(file).open(encoding="utf-8"))
        prompts: Iterator[Prompt | BadLine] = read_prompts(lines, defaults)
        if strict:
            prompts = iter(_all_good(prompts))
        target = closing.enter_context(output.open("w", encoding="utf-8")) if output else sys.stdout
        client = connecting.request_client(settings, defaults.tenant)
        closing.callback(client.close)
        total = None if file == "-" else _count_lines(Path(file))
        deadlines = Deadlines(settings.default_deadline_s, settings.max_deadline_s)
        sending = Sending(client, prompts, target, deadlines, most=in_flight, between_s=1 / rate if rate else 0.0)
        stopped = _run_shown(sending, total)
    _print_summary(sending.summary, stopped=stopped)
    raise typer.Exit(130 if stopped else 1 if sending.summary.failed or sending.summary.skipped else 0)


def _all_good(prompts: Iterator[Prompt | BadLine]) -> list[Prompt]:
    """All of them. Raises the first BadLine."""
    good: list[Prompt] = []
    for prompt in prompts:
        if isinstance(prompt, Exception):
            raise prompt
        good.append(prompt)
    return good


def _run_shown(sending: Sending, total: int | None) -> bool:
    """Run with a progress bar where standard error is a terminal; whether Ctrl-C stopped it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from infra.cli.output import err

    console = err()
    columns = (TextColumn("answered"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=total)
        try:
            for _ in sending.steps():
                s = sending.summary
                bars.update(task, completed=s.ended + s.skipped, description=f"{s.sent - s.ended} under way, {s.failed} failed")
        except KeyboardInterrupt:
            return True
    return False


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _print_summary(summary: Summary, *, stopped: bool) -> None:
    from rich.markup import escape

    from infra.cli.output import err
    from infra.cli.sending import percentile

    tiers = ", ".join(f"{count} {tier}" for tier, count in summary.tiers.most_common())
    failures = ", ".join(f"{count} {code}" for code, count in summary.failures.most_common())
    parts = [f"{summary.sent} sent", f"{len(summary.ms)} answered" + (f" ({tiers})" if tiers else "")]
    parts.append(f"[red]{summary.failed} failed[/] ({escape(failures)})" if summary.failed else "0 failed")
    if summary.skipped:
        parts.append(f"[yellow]{summary.skipped} bad line{'s' if summary.skipped > 1 else ''} skipped[/]")
    if stopped:
        parts.append(f"[yellow]interrupted with {summary.sent - summary.ended} under way[/]")
    if summary.ms:
        parts.append(f"p50 {percentile(summary.ms, 50):.0f} ms, p95 {percentile(summary.ms, 95):.0f} ms")
    err().print(" · ".join(parts))
