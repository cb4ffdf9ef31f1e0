"""`up` and `down`: the local stack, in the foreground or behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.settings import Settings

_UP_EXAMPLES = """Examples:
  ./headrace up                       # until Ctrl-C
  ./headrace up --detach              # returns when everything is ready
  HEADRACE_WORKERS=2 ./headrace up    # two deep-learning agents
  HEADRACE_HOME=/tmp/other ./headrace up --detach   # a second, independent stack"""
_DOWN_EXAMPLES = """Examples:
  ./headrace down
  HEADRACE_HOME=/tmp/other ./headrace down"""
_NEXT = './headrace ask "What is the capital of France?"'


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command(epilog=_UP_EXAMPLES)(up)
    app.command(epilog=_DOWN_EXAMPLES)(down)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave the stack running behind, and return when it is ready.")] = False,
    ready_fd: Annotated[int, typer.Option(hidden=True, help="Where to write a line when ready; used by --detach.")] = 0,
) -> None:
    """Start Kafka, the schema registry, Valkey and all agents on this machine, and keep them running.

    What is missing is downloaded first. All listen on 127.0.0.1 alone. Ctrl-C, or `down`, ends everything in order.
    """
    from infra.settings import Settings

    settings = Settings()
    if detach:
        from infra.cli.detaching import start_behind

        start_behind(settings)
        return
    began = time.monotonic()
    from infra import models
    from infra.cli.bringing_up import make_stack, prepare_log
    from infra.cli.output import out
    from infra.local.progress import RichProgress

    progress = RichProgress(out())
    for model in (settings.model, settings.embedder, settings.verifier):
        if not models.is_pulled(settings, model):
            models.pull(settings, model, progress.note)
    stack = make_stack(settings, progress)

    def on_up() -> None:
        _print_ready(Settings(), time.monotonic() - began)
        if ready_fd:
            from infra.cli.detaching import tell_ready

            tell_ready(ready_fd)

    stack.run([lambda: prepare_log(progress)], on_up)


def down() -> None:
    """End this home's stack: agents first, then servers, and whatever a killed supervisor left. Data stays."""
    from infra.cli.output import mark, out
    from infra.cli.processes import process_states
    from infra.local.down import down as end_stack
    from infra.settings import Settings

    settings = Settings()
    names = [state.name for state in process_states(settings) if state.alive]
    ended = end_stack(settings)
    out().print(f"{mark(True)} {ended}" + (f": {', '.join(names)}" if names else f" in {settings.home}"), soft_wrap=True)


def _print_ready(settings: Settings, seconds: float) -> None:
    from infra.cli.output import out

    console = out()
    console.print(f"\n[bold green]ready in {seconds:.1f} s[/]")
    agents = settings.stack.get("agents", {})
    addresses = {
        "Kafka": settings.bootstrap,
        "schema registry": settings.registry,
        "Redis": settings.redis,
        **{f"{name} metrics": f"http://127.0.0.1:{entry['port']}/metrics" for name, entry in agents.items()},
    }
    for name, address in addresses.items():
        console.print(f"  {name:<26} {address}", markup=False)
    console.print(f"\nnext: [bold]{_NEXT}[/]\n")
