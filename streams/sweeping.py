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
    """Pending requests by deadline.

    Ended ones are remembered until their deadline, so that a request published twice is not expected again; those whose final
    event was read before the request, for `memory_ms`.
    """

    memory_ms: int
    pending: dict[str, Expected] = field(default_factory=dict)
    _deadlines: list[tuple[int, str]] = field(default_factory=list)
    _ended: dict[str, int] = field(default_factory=dict)

    def requested(self, request: Expected) -> None:
        """A request was read."""
        if request.request_id not in self._ended and request.request_id not in self.pending:
            self.pending[request.request_id] = request
            heapq.heappush(self._deadlines, (request.deadline_ms, request.request_id))

    def ended(self, request_id: str, now_ms: int) -> None:
        """A final event was read."""
        expected = self.pending.pop(request_id, None)
        until = now_ms + self.memory_ms if expected is None else expected.deadline_ms
        self._ended.setdefault(request_id, until)

    def overdue(self, now_ms: int, grace_ms: int) -> list[Expected]:
        """Requests whose deadline passed at least grace_ms ago; each is given once."""
        out = []
        while self._deadlines and self._deadlines[0][0] + grace_ms <= now_ms:
            deadline_ms, request_id = heapq.heappop(self._deadlines)
            if request_id in self.pending and self.pending[request_id].deadline_ms == deadline_ms:
                out.append(self.pending.pop(request_id))
                self._ended[request_id] = now_ms + self.memory_ms
        return out

    def forget(self, now_ms: int) -> None:
        """Drop what need not be remembered any more, oldest first; one that stays keeps the later ones a little longer."""
        while self._ended:
            oldest = next(iter(self._ended))
            if self._ended[oldest] >= now_ms:
                return
            del self._ended[oldest]
