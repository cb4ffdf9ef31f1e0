"""The ports of the services: what they need of the world, as Protocols. Adapters are in `connectors/`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from schemas.headers import RecordHeaders
from schemas.record import Record

# Where a follower starts: a time in ms, an end of the log, or the next offset of each partition (those not named: the beginning).
Start = int | Literal["beginning", "end"] | Mapping[int, int]


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A record to publish. `partition` None lets the key choose."""

    topic: str
    key: bytes
    event: Record
    headers: RecordHeaders
    partition: int | None = None


class Publisher(Protocol):
    """Publishes events durably."""

    def publish(self, records: Sequence[Outgoing]) -> Awaitable[None]:
        """Hand records over now, in order; the result is done when the broker has acknowledged all (acks=all, idempotent).

        It raises RetryableError where the broker did not within the publisher's own time-out.
        """
        ...


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it stands on the log."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None  # None where they can't be read: a name that is no UTF-8


class Rebalance(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer group has given partitions, as (topic, partition), to this member, or has taken them away."""

    assigned: bool
    partitions: frozenset[tuple[str, int]]


class Offsets(Protocol):
    """Where a group's progress is kept."""

    def acknowledge(self, topic: str, partition: int, offset: int) -> None:
        """All records before `offset` are done with. Does not wait."""
        ...


class GroupSource(Offsets, Protocol):
    """Reads topics as a member of a consumer group."""

    def join(self, topics: Sequence[str]) -> None:
        """Become a member, and begin to fetch. Call it on the event loop that takes."""
        ...

    async def wait(self) -> None:
        """Until there is something to take. Each return asks for one `take`."""
        ...

    def take(self, most: int) -> tuple[list[Rebalance], list[LogRecord]]:
        """What is there now, without waiting: changes of what this member owns, and then at most `most` records, in order."""
        ...


class LogFollower(Protocol):
    """Reads assigned partitions from where it was opened, without a consumer group."""

    async def next(self, wait_ms: int) -> list[LogRecord]:
        """Records that came, in order per partition; [] after `wait_ms` without any. Raises RetryableError when Kafka is away."""
        ...

    def caught_up(self) -> bool:
        """Whether everything that the brokers had at the last look has been returned."""
        ...

    async def close(self) -> None: ...


class Log(Protocol):
    """The log, read by position or time."""

    async def follow(self, topics: Sequence[str], partitions: Collection[int] | None = None, since: Start = "end") -> LogFollower:
        """Open a follower on these partitions of each topic (None: all), from a time in ms, the beginning, the end or given offsets."""
        ...

    async def read(self, topic: str, partitions: Collection[int] | None, since_ms: int) -> list[LogRecord]:
        """All records from a time until what is the end now, in order of partition and offset."""
        ...


class AnswerStore(Protocol):
    """Known answers by entry id. Losing it makes misses, never wrong answers."""

    async def get_many(self, entry_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Encoded AnswerLearned of those that are known. Raises RetryableError when the store is away."""
        ...


class Clock(Protocol):
    """Time as an argument, so that a test can own it."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000
