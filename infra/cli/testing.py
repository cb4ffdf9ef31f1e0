"""`test`: runs pytest against a stack of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent.parent
TEST_HOME = ".headrace-test"
_EXAMPLES = """Examples:
  ./headrace test
  ./headrace test -k "admission or routing" -x
  ./headrace test tests/test_cli.py -vv
  ./headrace test --faults         # the rounds and long cells, instead of the rest"""


def register(app: typer.Typer) -> None:
    """Add the command; what it doesn't know is pytest's."""
    extra = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(epilog=_EXAMPLES, context_settings=extra)(test)


def test(
    context: typer.Context,
    faults: Annotated[bool, typer.Option("--faults", help="Run the tests marked `faults`, which the others' run leaves out.")] = False,
) -> None:
    """Run the tests; every further argument goes to pytest.

    They use a stack of their own, in .headrace-test beside yours. At the end stands what each suite took of the 20-minute budget.
    """
    os.chdir(ROOT)
    os.execve(sys.executable, command(context.args, faults=faults), environment(dict(os.environ)))  # noqa: S606 - Ctrl-C must reach pytest alone


test.__test__ = False  # type: ignore[attr-defined]  # pytest collects whatever is called so


def command(arguments: list[str], *, faults: bool) -> list[str]:
    """pytest's command line. An own -m of the user replaces the choice between faults and the rest."""
    chosen = [] if "-m" in arguments else ["-m", "faults" if faults else "not faults"]
    return [sys.executable, "-m", "pytest", "-p", "infra.cli.time_budget", *chosen, *arguments]


def environment(present: dict[str, str]) -> dict[str, str]:
    """The tests' stack is another home, with the same downloads; settings of the user's own stack don't reach it."""
    kept = {name: value for name, value in present.items() if not name.startswith("HEADRACE_") or name == "HEADRACE_CACHE"}
    path = os.pathsep.join(filter(None, [str(ROOT), present.get("PYTHONPATH", "")]))
    return {**kept, "HEADRACE_HOME": str(ROOT / TEST_HOME), "PYTHONPATH": path}
