"""`status`: the local stack's processes, and how far behind its agents are."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.cli.lag import GroupLag
    from infra.cli.processes import ProcessState

_EXAMPLES = """Examples:
  ./headrace status
  ./headrace status --json | jq .total_mb"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLES)(status)


def status(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show each component and agent (alive, ready, memory), and the lag of each agent group.

    Exit code 1 unless everything is alive and ready.
    """
    from infra.access import ADMIN
    from infra.cli import connecting
    from infra.cli.lag import group_lags
    from infra.cli.output import print_json
    from infra.cli.processes import process_states, supervisor_alive, total_mb
    from infra.settings import Settings, StackNotRunning

    settings = Settings()
    if not settings.stack and not settings.kafka_bootstrap:
        raise StackNotRunning("any server", settings.home)
    states = process_states(settings)
    try:
        lags, away = group_lags(connecting.kafka_access(settings, ADMIN)), ""
    except connecting.ServerAway as error:
        lags, away = [], str(error)
    supervised = supervisor_alive(settings)
    if as_json:
        described = {"home": str(settings.home), "supervisor_alive": supervised, "total_mb": round(total_mb(states), 1)}
        print_json({**described, "processes": [asdict(s) for s in states], "lag": [asdict(lag) for lag in lags], "lag_unknown": away})
    else:
        _print(states, lags, away, supervised=supervised)
    raise typer.Exit(0 if all(s.ready for s in states) and not away else 1)


def _print(states: list[ProcessState], lags: list[GroupLag], away: str, *, supervised: bool) -> None:
    from rich.markup import escape

    from infra.cli.output import err, out, print_table
    from infra.cli.processes import total_mb

    if states:
        columns = ("name", "state", "pid", "memory MB", "up", "restarts", "address")
        print_table(columns, [_row(s) for s in states], wrapped="address", styles=["" if s.ready else "red" for s in states])
        out().print(f"{total_mb(states):.0f} MB in all\n")
        if not supervised:
            err().print("[yellow]the supervisor is gone: nothing restarts what dies. Mend it with: ./headrace down, then ./headrace up[/]")
    if away:
        err().print(f"[red]lag unknown: {escape(away)}[/]")
    elif lags:
        print_table(("group", "topic", "members", "lag"), [(x.group, x.topic, str(x.members), str(x.lag)) for x in lags])


def _row(state: ProcessState) -> tuple[str, ...]:
    how = "ready" if state.ready else "not ready" if state.alive else "dead"
    up = _duration(time.time() - state.since) if state.since else "-"
    restarts = "-" if state.restarts is None else str(state.restarts)
    return state.name, how, str(state.pid), f"{state.rss_mb:.0f}", up, restarts, state.address


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
