"""Acknowledges source records only after the broker has acknowledged what was derived from them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from streams.ending import end_process_on_error
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.ports import Outgoing, Publisher

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

    Batches may finish in any order. Faust would commit past a missing acknowledgement (0.15.3: Consumer._new_offset takes the first
    of the acknowledged offsets as contiguous), so a source event is acknowledged only when all before it in its partition are done.
    """

    def __init__(self, publisher: Publisher, failpoints: Failpoints, service: str) -> None:
        self._publisher = publisher
        self._failpoints = failpoints
        self._service = service
        self._taken: dict[tuple[str, int], deque[_Taken]] = {}
        self._entries: dict[int, _Taken] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_MOST_UNDER_WAY)

    def take(self, events: Sequence[Any]) -> None:
        """Note source events in the order of their partitions, before any of them is handled."""
        for event in events:
            entry = _Taken(event)
            self._entries[id(event)] = entry
            self._taken.setdefault((event.message.topic, event.message.partition), deque()).append(entry)

    async def publish_then_ack(self, derived: Sequence[tuple[Any, Sequence[Outgoing]]]) -> None:
        """For each (source event that was taken, records): hand the records over now; acknowledge the source events later."""
        await self._room.acquire()
        records = [record for _, out in derived for record in out]
        self._failpoints.reach(f"{self._service}.before_produce")
        first_try = self._publisher.publish(records)
        settling = self._settle([event for event, _ in derived], records, first_try)
        self._under_way.add(task := asyncio.create_task(settling))
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._room.release()
        end_process_on_error(task)

    async def _settle(self, events: list[Any], records: list[Outgoing], first_try: Awaitable[None]) -> None:
        await publish_until_done(self._publisher, records, self._service, first_try)
        self._failpoints.reach(f"{self._service}.after_produce")
        for event in events:
            self._entries.pop(id(event)).done = True
        for partition in {(event.message.topic, event.message.partition) for event in events}:
            waiting = self._taken[partition]
            while waiting and waiting[0].done:
                waiting.popleft().event.ack()


@dataclass(slots=True)
class _Taken:
    """A source event, and whether everything derived from it is durable."""

    event: Any
    done: bool = False
