"""A pytest plugin: what each suite (a test file) took, and the whole against the budget of 20 minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

BUDGET_S = 20 * 60.0


class _Report(Protocol):
    nodeid: str
    when: str | None
    duration: float


class _Terminal(Protocol):
    def write_sep(self, sep: str, title: str) -> None: ...
    def write_line(self, line: str) -> None: ...


class _Plugins(Protocol):
    def register(self, plugin: object, name: str) -> object: ...


class _Config(Protocol):
    @property
    def pluginmanager(self) -> _Plugins: ...


@dataclass(slots=True)
class Suite:
    """Tests of one file and their seconds, set-up and tear-down included."""

    tests: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class TimeBudget:
    """Sums the durations that pytest reports."""

    suites: dict[str, Suite] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def pytest_runtest_logreport(self, report: _Report) -> None:
        """Each test reports three times: set-up, call, tear-down."""
        suite = self.suites.setdefault(report.nodeid.partition("::")[0], Suite())
        suite.tests += report.when == "setup"
        suite.seconds += report.duration

    def pytest_terminal_summary(self, terminalreporter: _Terminal) -> None:
        """Print the table, slowest suite first."""
        terminalreporter.write_sep("-", "time budget")
        width = max((len(name) for name in self.suites), default=5)
        for name, suite in sorted(self.suites.items(), key=lambda item: -item[1].seconds):
            terminalreporter.write_line(f"{name:<{width}}  {suite.tests:5d} tests  {suite.seconds:7.1f} s")
        total = time.monotonic() - self.began
        terminalreporter.write_line(f"total {total:.0f} s of {BUDGET_S:.0f} s{'' if total <= BUDGET_S else ': OVER the budget'}")


def pytest_configure(config: _Config) -> None:
    """Called by pytest when it loads this as `-p infra.cli.time_budget`."""
    config.pluginmanager.register(TimeBudget(), "headrace-time-budget")
