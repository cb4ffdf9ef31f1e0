"""What a check of `doctor` is, and running many: one that fails in an unforeseen way is a wrong check, never the end of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from infra.cli.failures import explain


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `remedy` is empty where it is ok."""

    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A named question about the installation."""

    name: str
    run: Callable[[], Finding]


@dataclass(frozen=True, slots=True)
class Result:
    """A check's name with its finding."""

    name: str
    ok: bool
    detail: str
    remedy: str


def ok(detail: str) -> Finding:
    """Nothing to do."""
    return Finding(True, detail)


def wrong(detail: str, remedy: str) -> Finding:
    """Something to do."""
    return Finding(False, detail, remedy)


def run_checks(checks: Iterable[Check]) -> Iterator[Result]:
    """One after the other, so that each can be shown as it comes."""
    for check in checks:
        try:
            found = check.run()
        except Exception as error:
            failure = explain(error)
            told = (failure.message, failure.remedy) if failure else (repr(error), "this check itself has a bug: please report it")
            found = wrong(*told)
        yield Result(check.name, found.ok, found.detail, found.remedy)
