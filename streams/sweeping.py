"""Which requests are overdue. Pure: folds requests and final events, in whatever order they are read."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from schemas.events import Position


@dataclass(frozen=True, slots=True)
class Expected:
    """A request that has no final event yet. `deadline_ms` as admission computes it."""

    request_id: str
    tenant: str
    deadline_ms: int
    reply_to: Position
    source: Position
    requested_at: int
    traceparent: str = ""


@dataclass(slots=True)
class Sweep:
    """Pending requests by deadline. Final events that were read before their request are remembered for `memory_ms`."""

    memory_ms: int
    pending: dict[str, Expected] = field(default_factory=dict)
    _deadlines: list[tuple[int, str]] = field(default_factory=list)
    _early: dict[str, int] = field(default_factory=dict)

    def requested(self, request: Expected) -> None:
        """A request was read."""
        if self._early.pop(request.request_id, None) is None and request.request_id not in self.pending:
            self.pending[request.request_id] = request
            heapq.heappush(self._deadlines, (request.deadline_ms, request.request_id))

    def ended(self, request_id: str, now_ms: int) -> None:
        """A final event was read."""
        if self.pending.pop(request_id, None) is None:
            self._early[request_id] = now_ms + self.memory_ms

    def overdue(self, now_ms: int, grace_ms: int) -> list[Expected]:
        """Requests whose deadline passed at least grace_ms ago; each is given once."""
        out = []
        while self._deadlines and self._deadlines[0][0] + grace_ms <= now_ms:
            expected = self.pending.pop(heapq.heappop(self._deadlines)[1], None)
            if expected is not None:
                out.append(expected)
        return out

    def forget(self, now_ms: int) -> None:
        """Drop early final events whose request can't come any more."""
        for request_id in [r for r, until in self._early.items() if until < now_ms]:
            del self._early[request_id]
