"""Keeps a bounded number of requests under way, and writes and counts what comes of each."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from rich.markup import escape

from connectors.kafka.client import Told
from infra.cli.ask import LATER_S, make_request, result
from infra.cli.output import err
from infra.cli.prompts import BadLine, Prompt
from schemas.events import Final, InferenceRequested

_SLICE_S = 0.05  # the client is asked for this long at a time, so that pacing and time-outs get their turn


class Client(Protocol):
    """What is used of `connectors.kafka.client.RequestClient`."""

    def submit(self, request: InferenceRequested) -> None: ...
    def listen(self, timeout_s: float) -> Iterator[Told]: ...


@dataclass(slots=True)
class Summary:
    """What came of the lines so far. `ms` are the times of the answered ones."""

    sent: int = 0
    skipped: int = 0
    tiers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    ms: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests that ended without an answer."""
        return self.failures.total()

    @property
    def ended(self) -> int:
        """Requests that are over."""
        return self.failed + len(self.ms)

    def add(self, told: dict[str, Any]) -> None:
        """Count one result, as `ask.result` makes it."""
        if told["ok"]:
            self.tiers[told["tier"]] += 1
            self.ms.append(told["total_ms"])
        else:
            self.failures[told["code"]] += 1


@dataclass(frozen=True, slots=True)
class Deadlines:
    """What the installation gives a request that names none, and the longest it gives any; in seconds."""

    default_s: float
    longest_s: float


@dataclass(slots=True)
class _Open:
    prompt: Prompt
    sent: float
    gives_up: float


class Sending:
    """Keeps at most `most` requests under way and writes their results. `between_s` is the least time between two sendings."""

    def __init__(
        self, client: Client, prompts: Iterator[Prompt | BadLine], target: TextIO, deadlines: Deadlines, *, most: int, between_s: float
    ) -> None:  # fmt: skip
        self.summary = Summary()
        self._client = client
        self._prompts = prompts
        self._target = target
        self._most = most
        self._between_s = between_s
        self._deadlines = deadlines
        self._next_at = 0.0
        self._more = True
        self._open: dict[str, _Open] = {}

    def steps(self) -> Iterator[None]:
        """Send and receive until all is over; yields after each small step, for whoever shows the progress."""
        while self._more or self._open:
            self._send_due()
            if not self._open:
                time.sleep(min(_SLICE_S, max(0.0, self._next_at - time.monotonic())))
            for told in self._client.listen(_SLICE_S):
                if told.final is not None:
                    self._end(told.request_id, told.final)
                    self._send_due()  # at once: a free place that waits for the slice's end would cap the throughput
            self._give_up_overdue()
            yield

    def _send_due(self) -> None:
        while self._more and len(self._open) < self._most and time.monotonic() >= self._next_at:
            prompt = next(self._prompts, None)
            if prompt is None:
                self._more = False
            elif isinstance(prompt, BadLine):
                self.summary.skipped += 1
                err().print(f"[yellow]skipped {escape(str(prompt))}[/]")
            else:
                self._send(prompt)

    def _send(self, prompt: Prompt) -> None:
        request = make_request(prompt.asked, list(prompt.turns))
        now = time.monotonic()
        asked_s = prompt.asked.deadline_s
        seconds = min(self._deadlines.default_s if asked_s is None else asked_s, self._deadlines.longest_s)
        self._open[request.request_id] = _Open(prompt, now, now + seconds + LATER_S)
        self._client.submit(request)
        self.summary.sent += 1
        self._next_at = max(self._next_at + self._between_s, now) if self._between_s else 0.0

    def _end(self, request_id: str, final: Final | None) -> None:
        ended = self._open.pop(request_id, None)
        if ended is None:  # its time was over, and that was written already
            return
        told = result(request_id, final, (time.monotonic() - ended.sent) * 1000)
        self.summary.add(told)
        line = {"line": ended.prompt.number, "id": ended.prompt.id, **told}
        self._target.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._target.flush()

    def _give_up_overdue(self) -> None:
        now = time.monotonic()
        for request_id in [r for r, o in self._open.items() if o.gives_up < now]:
            self._end(request_id, None)


def percentile(values: list[float], percent: float) -> float:
    """The nearest-rank percentile of at least one value."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)]
