"""Lanes: work that takes longer than the rest goes apart, in batches of what waits now, and holds nobody up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from streams.ending import end_process_on_error

Item = TypeVar("Item")


class Lane(Generic[Item]):
    """One batch is under way at a time, so that the next one grows meanwhile: no item ever waits for a second one to come.

    `most` bounds a batch, `room` what may wait: `put` then waits, so that the stream does rather than memory grows.
    """

    def __init__(self, handle: Callable[[Sequence[Item]], Awaitable[None]], most: int, room: int) -> None:
        self._handle = handle
        self._most = most
        self._room = room
        self._waiting: deque[Item] = deque()
        self._running: asyncio.Task[None] | None = None
        self._taken = asyncio.Event()

    async def put(self, items: Sequence[Item]) -> None:
        """Add items, in order. An exception of the handler ends the process: nobody awaits it."""
        self._waiting.extend(items)
        if self._running is None and self._waiting:
            self._running = asyncio.create_task(self._run())
            self._running.add_done_callback(end_process_on_error)
        while len(self._waiting) > self._room:
            self._taken.clear()
            await self._taken.wait()

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                self._taken.set()
                await self._handle(batch)
        finally:
            self._running = None
