"""`bench`: runs a benchmark by its name."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from infra.cli.testing import ROOT

_EXAMPLES = """Examples:
  ./headrace bench                       # which ones there are
  ./headrace bench NAME --help
  ./headrace bench NAME --seconds 30"""


def register(app: typer.Typer) -> None:
    """Add the command; what it doesn't know is the benchmark's."""
    extra = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(epilog=_EXAMPLES, context_settings=extra)(bench)


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Module in benchmarks/; none lists them.")] = "",
) -> None:
    """Run a benchmark; every further argument goes to it, --help after the name too."""
    known = benchmarks()
    if not name:
        sys.stdout.write("".join(f"{each}\n" for each in known))
        return
    if name not in known:
        from streams.errors import PoisonError

        raise PoisonError("no_such_benchmark", f"there is no benchmark {name!r}", f"use one of: {', '.join(known) or '(none yet)'}")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    arguments = [sys.executable, "-m", f"benchmarks.{name}", *context.args]
    os.execve(sys.executable, arguments, {**os.environ, "PYTHONPATH": path})  # noqa: S606 - Ctrl-C must reach the benchmark alone


def benchmarks() -> list[str]:
    """Modules that can be run: those with a main block."""
    folder = ROOT / "benchmarks"
    return sorted(path.stem for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text())
