"""`logs`: the end of a service's log, and what is added to it."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.settings import Settings

_POLL_S = 0.2
_EXAMPLES = """Examples:
  ./headrace logs inference-0
  ./headrace logs deep-learning-0 -f
  ./headrace logs kafka -n 200
  ./headrace logs                  # which ones there are"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLES)(logs)


def logs(
    service: Annotated[str, typer.Argument(help="Component or agent; none lists them.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines from the end.")] = 50,
) -> None:
    """Show the log of a component or agent of the local stack."""
    from infra.settings import Settings

    known = log_files(Settings())
    if not service:
        for name, path in known.items():
            sys.stdout.write(f"{name:<20} {path}\n")
        if known:
            return
    if service not in known:
        from streams.errors import PoisonError

        names = ", ".join(known) or "none: no local stack ever ran here"
        title = f"there is no log of {service}" if service else "there are no logs"
        raise PoisonError("no_such_log", title, f"logs there are: {names}")
    path = known[service]
    with path.open(encoding="utf-8", errors="replace") as file:
        sys.stdout.writelines(deque(file, maxlen=lines))
        sys.stdout.flush()
        if follow:
            for line in added_lines(path, file.tell()):
                sys.stdout.write(line)
                sys.stdout.flush()


def log_files(settings: Settings) -> dict[str, Path]:
    """Logs by name: those in the home's folder, and where the running stack says that it writes."""
    found = {path.stem: path for path in sorted((settings.home / "logs").glob("*.log"))}
    for group in ("components", "agents"):
        for name, entry in settings.stack.get(group, {}).items():
            if "log" in entry and Path(entry["log"]).exists():
                found[name] = Path(entry["log"])
    return found


def added_lines(path: Path, position: int) -> Iterator[str]:
    """What is added after a position, for ever. A file that is replaced or cut at a restart is read from its beginning."""
    inode = path.stat().st_ino
    while True:
        try:
            stat = path.stat()
        except FileNotFoundError:  # between being set aside and being made anew
            time.sleep(_POLL_S)
            continue
        if stat.st_ino != inode or stat.st_size < position:
            inode, position = stat.st_ino, 0
        if stat.st_size == position:
            time.sleep(_POLL_S)
            continue
        with path.open("rb") as file:
            file.seek(position)
            text = file.read()
        position += len(text)
        yield text.decode("utf-8", "replace")
