"""`doctor`: is everything as it must be, and if not, what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.cli.checks import Result

_EXAMPLES = """Examples:
  ./headrace doctor
  ./headrace doctor --json | jq '.[] | select(.ok | not)'"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLES.replace("[", r"\["))(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list at the end instead.")] = False) -> None:
    """Check the machine, the installation and the running stack, one by one, and say what to do where something is wrong.

    Exit code 1 where anything is. Changes nothing.
    """
    from infra.cli.checks import run_checks
    from infra.cli.checks_machine import machine_checks
    from infra.cli.checks_servers import server_checks
    from infra.cli.output import out, print_json
    from infra.settings import Settings

    settings = Settings()
    results: list[Result] = []
    for result in run_checks([*machine_checks(settings), *(server_checks(settings) if settings.stack or settings.kafka_bootstrap else [])]):
        results.append(result)
        if not as_json:
            _print(result)
    bad = sum(not result.ok for result in results)
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        out().print(f"\n[bold red]{bad} of {len(results)} checks are wrong[/]" if bad else f"\n[green]all {len(results)} checks are ok[/]")
    raise typer.Exit(1 if bad else 0)


def _print(result: Result) -> None:
    from rich.markup import escape

    from infra.cli.output import mark, out

    out().print(f"{mark(result.ok)} {'ok   ' if result.ok else 'wrong'} {result.name:<20} {escape(result.detail)}")
    if not result.ok:
        out().print(f"        [bold]do:[/] {escape(result.remedy)}")
