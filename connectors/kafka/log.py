"""Reads the log by position or time with consumers of librdkafka, which own their offsets and never join a group.

Each has a thread of its own to wait in. librdkafka, since a record header whose name is no UTF-8 ends the parser of aiokafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka.records import as_log_record
from streams.errors import RetryableError
from streams.kafka_access import KafkaAccess
from streams.ports import LogRecord, Start

_MOST_RECORDS = 2000
_CALL_S = 15.0
# The connection is gone or comes back: librdkafka goes on by itself, as a follower does that got no records.
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT, KafkaError._MAX_POLL_EXCEEDED)
_T = TypeVar("_T")
Place = tuple[str, int]


class LogAway(RetryableError):
    """Kafka does not answer. See `headrace status`; readers go on by themselves when it is back."""

    def __init__(self, error: Exception) -> None:
        super().__init__("log_away", f"Kafka does not answer: {error!r}", "see: headrace status")


class KafkaLog:
    """Adapter of `streams.ports.Log`."""

    def __init__(self, access: KafkaAccess) -> None:
        self._settings = {
            **access.confluent(),
            "group.id": f"{access.username}.log",  # librdkafka wants one; nothing joins it or commits to it
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 16 << 10,
            "fetch.queue.backoff.ms": 20,  # the default of a second would let a full queue run dry
        }

    async def follow(self, topics: Sequence[str], partitions: Collection[int] | None = None, since: Start = "end") -> KafkaFollower:
        """See the port. With given offsets, `topics` must be one. Raises LogAway."""
        follower = KafkaFollower(self._settings)
        try:
            await follower.call(follower.open, topics, partitions, since)
        except LogAway:
            await follower.close()
            raise
        return follower

    async def read(self, topic: str, partitions: Collection[int] | None, since_ms: int) -> list[LogRecord]:
        """See the port. Raises LogAway."""
        follower = await self.follow([topic], partitions, since_ms)
        try:
            return await follower.read_to_end()
        finally:
            await follower.close()


class KafkaFollower:
    """Adapter of `streams.ports.LogFollower`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._consumer = Consumer(settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-follower")
        self._next: dict[Place, int] = {}  # next offset of each assigned partition
        self._fetched: set[Place] = set()
        self._error: KafkaError | None = None  # came behind records: they are returned first, and it is raised at the next call

    async def call(self, blocking: Callable[..., _T], *arguments: Any) -> _T:
        """Run something on the follower's thread. Raises LogAway where Kafka is."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, blocking, *arguments)
        except (KafkaException, OSError) as error:
            raise LogAway(error) from error

    def open(self, topics: Sequence[str], partitions: Collection[int] | None, since: Start) -> None:
        """Assign what is asked for. Blocks. Raises KafkaException or OSError."""
        places = [place for topic in topics for place in self._places(topic, partitions)]
        if not places:
            raise OSError(f"no such topic, or no right to read it: {', '.join(topics)}")
        self._next = dict(zip(places, self._starts(places, since), strict=True))
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in self._next.items()])

    def _places(self, topic: str, wanted: Collection[int] | None) -> list[Place]:
        told = self._consumer.list_topics(topic, timeout=_CALL_S).topics[topic]
        if told.error is not None:
            raise KafkaException(told.error)
        return [(topic, p) for p in sorted(told.partitions) if wanted is None or p in wanted]

    def _starts(self, places: list[Place], since: Start) -> list[int]:
        """First offset to read of each place; the end is fixed now, not at the first fetch."""
        if since == "beginning":
            return [self._bounds(place)[0] for place in places]
        if since == "end":
            return [self._bounds(place)[1] for place in places]
        if isinstance(since, int):
            found = self._consumer.offsets_for_times([TopicPartition(*place, max(0, since)) for place in places], timeout=_CALL_S)
            return [self._bounds(place)[1] if tp.offset < 0 else tp.offset for place, tp in zip(places, found, strict=True)]
        return [max(self._bounds(place)[0], since.get(place[1], 0)) for place in places]

    def _bounds(self, place: Place) -> tuple[int, int]:
        """Lowest offset and end of a partition."""
        low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=_CALL_S)
        return low, high

    async def next(self, wait_ms: int) -> list[LogRecord]:
        return await self.call(self._read, wait_ms / 1000)

    def _read(self, wait_s: float) -> list[LogRecord]:
        if self._error is not None:
            error, self._error = self._error, None
            raise KafkaException(error)
        first = self._consumer.poll(wait_s)
        records = []
        for message in [] if first is None else [first, *self._consumer.consume(_MOST_RECORDS - 1, 0)]:
            error = message.error()
            if error is None:
                record = as_log_record(message)
                records.append(record)
                self._arrived((record.topic, record.partition), record.offset + 1)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._arrived((message.topic(), message.partition()), message.offset())
            elif not error.retriable() and error.code() not in _PASSING:
                self._error = error
        if self._error is not None and not records:
            return self._read(0)
        return records

    def _arrived(self, place: Place, offset: int) -> None:
        self._next[place] = offset
        self._fetched.add(place)

    def caught_up(self) -> bool:
        """True when each partition has been fetched once and nothing that the broker told of is left."""
        return len(self._fetched) == len(self._next) and all(self._end_told(place) <= offset for place, offset in self._next.items())

    def _end_told(self, place: Place) -> int:
        """End of a partition as of the last fetch, without a question to the broker; below 0 where there was none."""
        told = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        return -1 if told is None else int(told[1])

    async def read_to_end(self) -> list[LogRecord]:
        """Everything up to what is the end now, then stop."""
        ends = await self.call(lambda: {place: self._bounds(place)[1] for place in self._next})
        out: list[LogRecord] = []
        while any(self._next[place] < end for place, end in ends.items()):
            out += await self.next(200)
        kept = (r for r in out if r.offset < ends[r.topic, r.partition])
        return sorted(kept, key=lambda r: (r.topic, r.partition, r.offset))

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._consumer.close)
        self._thread.shutdown(wait=False)
