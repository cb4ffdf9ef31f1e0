"""How commands print: coloured on a terminal, plain elsewhere or with NO_COLOR; tables that a pipe gets unwrapped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from infra.cli.failures import Failure

_NUMBERS = {"ms", "MB", "lag", "pid", "members", "restarts"}  # last words of the columns that are aligned to the right
_LEAST_FOLDED = 24
_UNWRAPPED = 100_000  # columns where no terminal bounds them: a line that is read by a program must not be broken


def out() -> Console:
    """Standard output: what was asked for. Made anew at each use, since tests and pipes replace sys.stdout."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error: everything about how it went."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else _UNWRAPPED)


def print_failure(failure: Failure) -> None:
    """One message, and on a line of its own what to do."""
    console = err()
    console.print(f"[bold red]error:[/] {escape(failure.message)}")
    if failure.remedy:
        console.print(f"[bold]  do:[/] {escape(failure.remedy)}")


def print_json(value: Any) -> None:
    """Indented JSON; text in any language stays readable."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], wrapped: str = "", styles: Sequence[str] | None = None) -> None:
    """A table. On a terminal the column `wrapped` is folded to fit and the others keep their width. `styles`: one for each row."""
    cells = [list(row) for row in rows]
    widths = [max([len(column), *(len(row[i]) for row in cells)]) for i, column in enumerate(columns)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        number, folds = column.rpartition(" ")[2] in _NUMBERS, column == wrapped
        table.add_column(column, justify="right" if number else "left", overflow="fold", min_width=_LEAST_FOLDED if folds else width)
    for index, row in enumerate(cells):
        table.add_row(*(Text(cell) for cell in row), style=styles[index] if styles else None)
    console = out()
    fixed = sum(width + 2 for column, width in zip(columns, widths, strict=True) if column != wrapped)
    if fixed + (_LEAST_FOLDED if wrapped else 0) > console.width:
        console.width = _UNWRAPPED  # the terminal breaks the lines: better than cells cut short
    console.print(table, soft_wrap=False)


def mark(good: bool) -> str:
    """A tick or a cross, as rich markup."""
    return "[green]✓[/]" if good else "[bold red]✗[/]"
