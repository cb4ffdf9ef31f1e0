"""How the local stack reports what it does: a small port, one implementation for people, and one that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

Advance = Callable[[int], None]


class Progress(Protocol):
    """Called from several threads at once."""

    def download(self, label: str, total_bytes: int) -> AbstractContextManager[Advance]:
        """A bar for one download; the context gives a function that takes the number of new bytes."""

    def started(self, title: str, seconds: float, detail: str) -> None:
        """A server or agent answers now, so many seconds after its start; `detail` is its address."""

    def note(self, text: str) -> None:
        """Something worth knowing that is no failure of the stack: an extraction, a first format, a restart."""

    def trouble(self, text: str) -> None:
        """Something broke and is being dealt with: an agent died, a watchdog fired."""


class Silent:
    """Reports nothing: for tests, and for callers that print by themselves."""

    @contextmanager
    def download(self, label: str, total_bytes: int) -> Iterator[Advance]:  # noqa: ARG002 - the port's signature
        """No bar."""
        yield lambda _: None

    def started(self, title: str, seconds: float, detail: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def trouble(self, text: str) -> None:
        """Nothing."""


class RichProgress:
    """Coloured lines and moving bars on a terminal, plain lines elsewhere (a file, CI)."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._lock = Lock()
        self._bars: Bars | None = None
        self._running = 0

    @contextmanager
    def download(self, label: str, total_bytes: int) -> Iterator[Advance]:
        """Bars of concurrent downloads share one display, which ends with the last of them."""
        if not self._console.is_terminal:
            self._console.print(f"  downloading {label} ({total_bytes / 1e6:.1f} MB)", markup=False)
            yield lambda _: None
            return
        bars = self._open_bars()
        task = bars.add_task(label, total=total_bytes)
        try:
            yield lambda count: bars.advance(task, count)
        finally:
            bars.remove_task(task)
            self._close_bars()

    def started(self, title: str, seconds: float, detail: str) -> None:
        """A green tick, the name, its seconds and where it listens."""
        self._console.print(f"[green]✓[/] {escape(title):<24} [dim]{seconds:5.1f} s  {escape(detail)}[/]", soft_wrap=True)

    def note(self, text: str) -> None:
        """A dim line."""
        self._console.print(f"  [dim]{escape(text)}[/]", soft_wrap=True)

    def trouble(self, text: str) -> None:
        """A yellow line."""
        self._console.print(f"[yellow]! {escape(text)}[/]", soft_wrap=True)

    def _open_bars(self) -> Bars:
        with self._lock:
            self._running += 1
            if self._bars is None:
                columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
                self._bars = Bars(*columns, console=self._console, transient=True)
                self._bars.start()
            return self._bars

    def _close_bars(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0 and self._bars is not None:
                self._bars.stop()
                self._bars = None
