"""Reads the log by position or time with plain aiokafka consumers, which own their offsets and belong to no group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from streams.errors import RetryableError
from streams.kafka_access import KafkaAccess
from streams.ports import LogRecord, Start

_MOST_RECORDS = 2000


class LogAway(RetryableError):
    """Kafka does not answer. See `headrace status`; readers go on by themselves when it is back."""

    def __init__(self, error: Exception) -> None:
        super().__init__("log_away", f"Kafka does not answer: {error!r}", "see: headrace status")


class KafkaLog:
    """Adapter of `streams.ports.Log`."""

    def __init__(self, access: KafkaAccess) -> None:
        self._access = access

    async def follow(self, topics: Sequence[str], partitions: Collection[int] | None = None, since: Start = "end") -> KafkaFollower:
        """See the port. With given offsets, `topics` must be one. Raises LogAway."""
        consumer = AIOKafkaConsumer(
            **self._access.aiokafka(), enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=100,
            max_partition_fetch_bytes=8 << 20,
        )  # fmt: skip
        try:
            await consumer.start()
            assigned = await _partitions(consumer, topics, partitions)
            consumer.assign(assigned)
            await _seek(consumer, assigned, since)
        except (KafkaError, OSError) as error:
            await consumer.stop()
            raise LogAway(error) from error
        return KafkaFollower(consumer, assigned)

    async def read(self, topic: str, partitions: Collection[int] | None, since_ms: int) -> list[LogRecord]:
        """See the port. Raises LogAway."""
        follower = await self.follow([topic], partitions, since_ms)
        try:
            return await follower.read_to_end()
        finally:
            await follower.close()


class KafkaFollower:
    """Adapter of `streams.ports.LogFollower`."""

    def __init__(self, consumer: AIOKafkaConsumer, assigned: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._assigned = assigned
        self._next: dict[TopicPartition, int] = {}

    async def next(self, wait_ms: int) -> list[LogRecord]:
        try:
            by_partition = await self._consumer.getmany(timeout_ms=wait_ms, max_records=_MOST_RECORDS)
        except (KafkaError, OSError) as error:
            raise LogAway(error) from error
        for tp, records in by_partition.items():
            self._next[tp] = records[-1].offset + 1
        return [_record(r) for records in by_partition.values() for r in records]

    def caught_up(self) -> bool:
        """True when each partition has been fetched once and nothing that the broker told of is left."""
        for tp in self._assigned:
            end = self._consumer.highwater(tp)
            if end is None or (end > 0 and self._next.get(tp, 0) < end and not self._starts_at(tp, end)):
                return False
        return True

    def _starts_at(self, tp: TopicPartition, end: int) -> bool:
        state: Any = self._consumer._subscription.subscription.assignment.state_value(tp)  # the only view of a position without a request
        return bool(state is not None and state.has_valid_position and state.position >= end)

    async def read_to_end(self) -> list[LogRecord]:
        """Everything up to what is the end now, then stop."""
        try:
            ends: dict[TopicPartition, int] = await self._consumer.end_offsets(self._assigned)
            out: list[LogRecord] = []
            while not await self._reached(ends):
                out += await self.next(200)
        except (KafkaError, OSError) as error:
            raise LogAway(error) from error
        kept = (r for r in out if r.offset < ends[TopicPartition(r.topic, r.partition)])
        return sorted(kept, key=lambda r: (r.topic, r.partition, r.offset))

    async def _reached(self, ends: dict[TopicPartition, int]) -> bool:
        positions = await asyncio.gather(*(self._consumer.position(tp) for tp in self._assigned))
        return all(position >= ends[tp] for tp, position in zip(self._assigned, positions, strict=True))

    async def close(self) -> None:
        await self._consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topics: Sequence[str], wanted: Collection[int] | None) -> list[TopicPartition]:
    found = []
    for topic in topics:
        await consumer._client.add_topic(topic)  # metadata of a topic that is assigned by hand is not fetched by itself
        have = consumer.partitions_for_topic(topic) or set()
        found += [TopicPartition(topic, p) for p in sorted(have if wanted is None else have & set(wanted))]
    if not found:
        raise OSError(f"no such topic, or no right to read it: {', '.join(topics)}")
    return found


async def _seek(consumer: AIOKafkaConsumer, assigned: list[TopicPartition], since: Start) -> None:
    if since == "beginning":
        await consumer.seek_to_beginning(*assigned)
    elif since == "end":
        await consumer.seek_to_end(*assigned)
        await asyncio.gather(*(consumer.position(tp) for tp in assigned))  # fix the end now, not at the first fetch
    elif isinstance(since, int):
        ends = await consumer.end_offsets(assigned)
        found = await consumer.offsets_for_times(dict.fromkeys(assigned, max(0, since)))
        for tp in assigned:
            consumer.seek(tp, found[tp].offset if found.get(tp) is not None else ends[tp])
    else:
        begins = await consumer.beginning_offsets(assigned)
        for tp in assigned:
            consumer.seek(tp, max(begins[tp], since.get(tp.partition, 0)))


def _record(r: ConsumerRecord[Any, Any]) -> LogRecord:
    return LogRecord(
        topic=r.topic, partition=r.partition, offset=r.offset, timestamp_ms=r.timestamp, key=r.key, value=r.value, headers=tuple(r.headers)
    )
