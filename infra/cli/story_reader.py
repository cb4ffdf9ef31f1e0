"""Finds all records of one request on the log: by the time in its id, by what earlier records say of later ones, in bounded windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infra.cli.log_window import LogReader, Window
from schemas.codec import Codec, UndecodableRecord
from schemas.events import InferenceCompleted, InferenceRequested, Position, RequestAdmitted
from schemas.headers import RecordHeaders
from schemas.ids import uuid7_ms
from streams.errors import PoisonError
from streams.ports import LogRecord
from streams.routing import partition_for
from streams.story import Found, finished_ms
from streams.topics import (
    DEAD_LETTERS,
    DL_REQUESTS,
    DL_RESULTS,
    FINALS,
    IDEMPOTENCY,
    KNOWLEDGE,
    KNOWLEDGE_CHECKS,
    LIFECYCLE,
    REQUESTS,
    RESPONSES,
    TOKENS,
)

_EARLIER_MS = 2000  # clocks of the asker and of the services differ
_SOON_MS = 5000  # a request reaches the log, and in quiet times its admission, within this of its id's time
_AFTERWARDS_MS = 10_000  # repeats of the final event and what is learned come within this


class NotARequestId(PoisonError):
    """Request ids are UUIDv7: copy the id that `ask`, `send` or the producer printed."""


class UnknownRequest(PoisonError):
    """The log has nothing of this request near its id's time: it never reached Kafka, or its retention is over."""


@dataclass(slots=True)
class StoryReader:
    """Reads with an operator's right. `longest_ms`: the longest deadline of the installation, which bounds every window."""

    log: LogReader
    codec: Codec
    longest_ms: int

    def find(self, request_id: str) -> list[Found]:
        """All records of the request. Raises NotARequestId, UnknownRequest, LogUnreadable."""
        started = _time_of(request_id)
        is_mine = _belongs_to(request_id)
        lifecycle = partition_for(request_id.encode(), self.log.partitions(LIFECYCLE))
        request = self._request(request_id, started, lifecycle)
        if request is None:
            raise UnknownRequest(
                "unknown_request", f"no record of {request_id} was found between 2 s before and 5 s after its time",
                "check the id; if it is right, the request never reached Kafka, or its records are older than the topics keep",
            )  # fmt: skip
        reply_to = self._reply_to(request_id, request)
        replies = self._replies(reply_to, started, is_mine)
        until = max([finished_ms(f.event) for f in replies if isinstance(f.event, FINALS)] or [started + self.longest_ms]) + _AFTERWARDS_MS
        windows = [Window(topic=LIFECYCLE, partition=lifecycle, since_ms=started - _EARLIER_MS, until_ms=until)]
        windows += self._all(DEAD_LETTERS, started - _EARLIER_MS, until)
        windows += self._knowledge(replies, started, until)
        windows += self._all(KNOWLEDGE_CHECKS, started - _EARLIER_MS, until)  # a check of the known answer that it met
        asked = self._found(request).event
        if isinstance(asked, InferenceRequested) and asked.idempotency_key is not None:
            windows += self._all(IDEMPOTENCY, started - _EARLIER_MS, until)
        found = [Found(request, asked), *replies, *map(self._found, self.log.read(windows, is_mine))]
        return [*found, *map(self._found, self.log.read(self._deep_learning(found, until), is_mine))]

    def _request(self, request_id: str, started: int, lifecycle: int) -> LogRecord | None:
        """The request itself: where its admission says that it is, or else among the requests of those seconds."""
        is_mine = _belongs_to(request_id)
        since, until = started - _EARLIER_MS, started + _SOON_MS
        window = Window(topic=LIFECYCLE, partition=lifecycle, since_ms=since, until_ms=until)
        for record in self.log.read([window], lambda m: is_mine(m) and _header_event(m) == "RequestAdmitted", most=1):
            admitted = self._found(record).event
            if isinstance(admitted, RequestAdmitted):
                source = admitted.source
                return self.log.record_at(source.topic, source.partition, source.offset)
        return next(iter(self.log.read(self._all(REQUESTS, since, until), is_mine, most=1)), None)

    def _reply_to(self, request_id: str, request: LogRecord) -> Position:
        """Where it asked its replies to go, or the default by its id, as `streams.admission.reply_position` has it."""
        asked = RecordHeaders.parse(request.headers).reply_to
        if asked is not None:
            return asked
        return Position(topic=RESPONSES, partition=partition_for(request_id.encode(), self.log.partitions(RESPONSES)), offset=-1)

    def _replies(self, reply_to: Position, started: int, is_mine: Callable[[Any], bool]) -> list[Found]:
        """Tokens and final events. First until the final one, then for a while after it, since repeats follow soon."""
        topics = {reply_to.topic, TOKENS} if reply_to.topic == RESPONSES else {reply_to.topic}
        until = started + self.longest_ms + _AFTERWARDS_MS
        windows = [Window(topic=reply_to.topic, partition=reply_to.partition, since_ms=started - _EARLIER_MS, until_ms=until)]
        finals = [self._found(r) for r in self.log.read(windows, lambda m: is_mine(m) and _header_event(m) != "TokensGenerated", most=1)]
        for item in finals:
            if isinstance(item.event, FINALS):
                until = finished_ms(item.event) + _AFTERWARDS_MS
        both = [Window(topic=t, partition=reply_to.partition, since_ms=started - _EARLIER_MS, until_ms=until) for t in sorted(topics)]
        return [self._found(r) for r in self.log.read(both, is_mine)]

    def _knowledge(self, replies: Sequence[Found], started: int, until: int) -> list[Window]:
        """Where the answer would be learned: the entry's partition of the knowledge topic."""
        entries = {f.event.entry_id for f in replies if isinstance(f.event, InferenceCompleted) and f.event.entry_id and f.event.worker}
        count = self.log.partitions(KNOWLEDGE) if entries else 0
        places = {partition_for(entry.encode(), count) for entry in entries}
        return [Window(topic=KNOWLEDGE, partition=p, since_ms=started - _EARLIER_MS, until_ms=until) for p in sorted(places)]

    def _deep_learning(self, found: Sequence[Found], until: int) -> list[Window]:
        """The model's shard of requests and results, from the admission on."""
        windows = []
        for admitted in (f.event for f in found if isinstance(f.event, RequestAdmitted)):
            for topic in (DL_REQUESTS, DL_RESULTS):
                shard = partition_for(admitted.model.encode(), self.log.partitions(topic))
                windows.append(Window(topic=topic, partition=shard, since_ms=admitted.admitted_at - _EARLIER_MS, until_ms=until))
        return windows[:2]  # a request that was published twice was admitted twice, to the same shard

    def _all(self, topic: str, since: int, until: int) -> list[Window]:
        return [Window(topic=topic, partition=p, since_ms=since, until_ms=until) for p in range(self.log.partitions(topic))]

    def _found(self, record: LogRecord) -> Found:
        try:
            return Found(record, self.codec.decode(record.value))
        except UndecodableRecord:
            return Found(record, None)


def started_ms(request_id: str, found: Sequence[Found]) -> int:
    """When the request was made: as it says itself, or else as its id does."""
    return next((f.event.requested_at for f in found if isinstance(f.event, InferenceRequested)), _time_of(request_id))


def _time_of(request_id: str) -> int:
    try:
        return uuid7_ms(request_id)
    except ValueError as error:
        message = f"{request_id!r} is no request id: {error}"
        raise NotARequestId("not_a_request_id", message, "copy the id that `ask` or `send` printed") from error


def _belongs_to(request_id: str) -> Callable[[Any], bool]:
    """Tells a request's messages by their correlation id."""
    wanted = request_id.encode()
    return lambda message: any(name == "correlation-id" and value == wanted for name, value in message.headers() or ())


def _header_event(message: Any) -> str:
    return RecordHeaders.parse(message.headers()).event
