"""Acknowledges source records only after the broker has acknowledged what was derived from them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any

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

    Faust commits an offset only when all before it are acknowledged, so batches may finish in any order.
    """

    def __init__(self, publisher: Publisher, failpoints: Failpoints, service: str) -> None:
        self._publisher = publisher
        self._failpoints = failpoints
        self._service = service
        self._under_way: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_MOST_UNDER_WAY)

    async def publish_then_ack(self, derived: Sequence[tuple[Any, Sequence[Outgoing]]]) -> None:
        """For each (source event, records): hand the records over now; acknowledge the source events later."""
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
        if not task.cancelled() and task.exception() is not None:
            log.error("acknowledging_failed", exc_info=task.exception())

    async def _settle(self, events: list[Any], records: list[Outgoing], first_try: Awaitable[None]) -> None:
        await publish_until_done(self._publisher, records, self._service, first_try)
        self._failpoints.reach(f"{self._service}.after_produce")
        for event in events:
            event.ack()
