"""A broker in memory behind the ports Publisher, Log and GroupSource, so that whole services run in one event loop."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from random import Random

from schemas.codec import Codec
from schemas.record import Record
from streams.ports import LogRecord, Outgoing, Rebalance, Start, SystemClock
from streams.routing import partition_for
from tests.test_schemas import MemoryRegistry

PARTITIONS = 4


class MemoryBroker:
    """Topics of four partitions. What is published is there after a few ms, each batch in its order."""

    def __init__(self, random: Random) -> None:
        self.codec = Codec(MemoryRegistry())
        self._random = random
        self._topics: dict[str, list[list[LogRecord]]] = defaultdict(lambda: [[] for _ in range(PARTITIONS)])

    def publish(self, records: Sequence[Outgoing]) -> Awaitable[None]:
        return asyncio.ensure_future(self._publish(list(records)))

    async def _publish(self, records: list[Outgoing]) -> None:
        await asyncio.sleep(self._random.random() * 0.003)
        for record in records:
            partition = record.partition if record.partition is not None else partition_for(record.key, PARTITIONS)
            log = self._topics[record.topic][partition]
            log.append(
                LogRecord(
                    topic=record.topic, partition=partition, offset=len(log), timestamp_ms=SystemClock().now_ms(), key=record.key,
                    value=self.codec.encode(record.topic, record.event), headers=tuple(record.headers.raw()),
                )
            )  # fmt: skip

    def records(self, topic: str, partitions: Collection[int] | None = None) -> list[LogRecord]:
        """All of a topic, in order of partition and offset."""
        return [r for p, log in enumerate(self._topics[topic]) if partitions is None or p in partitions for r in log]

    def events(self, topic: str) -> list[Record]:
        """The same, decoded."""
        return [self.codec.decode(record.value) for record in self.records(topic)]

    async def follow(self, topics: Sequence[str], partitions: Collection[int] | None = None, since: Start = "end") -> MemoryFollower:
        places = [(t, p) for t in topics for p in range(PARTITIONS) if partitions is None or p in partitions]
        return MemoryFollower(self._topics, {(t, p): len(self._topics[t][p]) if since == "end" else 0 for t, p in places})

    async def read(self, topic: str, partitions: Collection[int] | None, since_ms: int) -> list[LogRecord]:
        return [r for r in self.records(topic, partitions) if r.timestamp_ms >= since_ms]

    async def pump(self, topic: str, partitions: Collection[int], handle: Callable[[Sequence[LogRecord]], Awaitable[None]]) -> None:
        """Hand a service its partitions from the beginning, as after a crash before any commit."""
        follower = await self.follow([topic], partitions, 0)
        while True:
            if records := await follower.next(100):
                await handle(records)

    # GroupSource: `pump` hands records over, and nothing is committed.

    def join(self, topics: Sequence[str]) -> None: ...

    async def wait(self) -> None: ...

    def take(self, most: int) -> tuple[list[Rebalance], list[LogRecord]]:
        raise AssertionError(f"nobody takes {most}")

    def acknowledge(self, topic: str, partition: int, offset: int) -> None: ...


class MemoryFollower:
    """Reads partitions from given offsets."""

    def __init__(self, topics: dict[str, list[list[LogRecord]]], positions: dict[tuple[str, int], int]) -> None:
        self._topics, self._positions = topics, positions

    async def next(self, wait_ms: int) -> list[LogRecord]:
        until = asyncio.get_running_loop().time() + wait_ms / 1000
        while True:
            found: list[LogRecord] = []
            for (topic, partition), offset in self._positions.items():
                records = self._topics[topic][partition][offset : offset + 50]
                self._positions[topic, partition] += len(records)
                found += records
            if found or asyncio.get_running_loop().time() > until:
                return found
            await asyncio.sleep(0.001)

    def caught_up(self) -> bool:
        return all(offset >= len(self._topics[t][p]) for (t, p), offset in self._positions.items())

    async def close(self) -> None: ...
