"""Acknowledges source records only after the broker has acknowledged what was derived from them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from streams.ending import end_process_on_error
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.ports import LogRecord, Offsets, Outgoing, Publisher

log = logging.getLogger(__name__)

# While two batches wait for their acknowledgement the next one grows, which is what makes a busy service efficient: of 1, 2, 4
# and 16, two had the highest throughput without adding to the latency of a calm one.
_MOST_UNDER_WAY = 2
_PAUSE_S = 0.5


async def publish_until_done(
    publisher: Publisher, records: Sequence[Outgoing], service: str, first_try: Awaitable[None] | None = None
) -> None:
    """Publish, and again while Kafka is away: nothing is given up, and ids make the repeats harmless."""
    attempt = first_try if first_try is not None else publisher.publish(records)
    while True:
        try:
            await attempt
            return
        except RetryableError as error:
            log.warning("publish_retried service=%s reason=%s", service, error)
            await asyncio.sleep(_PAUSE_S)
            attempt = publisher.publish(records)


class Acknowledger:
    """Publishes batches in order without waiting for each one's acknowledgement; waits when too many are under way.

    Batches may finish in any order. An offset stands for all before it, so a partition's offset moves only over records of which
    all before are done: they are kept as spans, one for each batch and partition.
    """

    def __init__(self, publisher: Publisher, offsets: Offsets, failpoints: Failpoints, service: str) -> None:
        self._publisher = publisher
        self._offsets = offsets
        self._failpoints = failpoints
        self._service = service
        self._spans: dict[tuple[str, int], deque[_Span]] = {}
        self._span_of: dict[int, _Span] = {}  # by the identity of the record: after a rebalance a second one may have its offset
        self._under_way: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_MOST_UNDER_WAY)

    def take(self, records: Sequence[LogRecord]) -> None:
        """Note source records in the order of their partitions, before any of them is handled."""
        spans: dict[tuple[str, int], _Span] = {}
        for record in records:
            place = (record.topic, record.partition)
            span = spans.get(place)
            if span is None:
                span = spans[place] = _Span()
                self._spans.setdefault(place, deque()).append(span)
            span.left += 1
            span.end = record.offset + 1
            self._span_of[id(record)] = span

    async def publish_then_ack(self, derived: Sequence[tuple[LogRecord, Sequence[Outgoing]]]) -> None:
        """For each (source record that was taken, records): hand the records over now; acknowledge the source records later."""
        await self._room.acquire()
        records = [record for _, out in derived for record in out]
        self._failpoints.reach(f"{self._service}.before_produce")
        first_try = self._publisher.publish(records)
        settling = self._settle([source for source, _ in derived], records, first_try)
        self._under_way.add(task := asyncio.create_task(settling))
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._room.release()
        end_process_on_error(task)

    async def _settle(self, sources: list[LogRecord], records: list[Outgoing], first_try: Awaitable[None]) -> None:
        await publish_until_done(self._publisher, records, self._service, first_try)
        self._failpoints.reach(f"{self._service}.after_produce")
        for source in sources:
            self._span_of.pop(id(source)).left -= 1
        for topic, partition in {(source.topic, source.partition) for source in sources}:
            waiting = self._spans[topic, partition]
            end: int | None = None
            while waiting and not waiting[0].left:
                end = waiting.popleft().end
            if end is not None:
                self._offsets.acknowledge(topic, partition, end)


@dataclass(slots=True)
class _Span:
    """Records of one partition that were taken together: how many of them are not durable yet, and the offset behind the last."""

    left: int = 0
    end: int = 0
