"""Keeps Redis in line with the compacted topic of knowledge, and knows what was retracted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from schemas.codec import Codec
from schemas.headers import RecordHeaders
from schemas.knowledge import AnswerLearned, AnswerRetracted
from streams.decoding import own_event
from streams.errors import RetryableError
from streams.ports import Log, LogRecord
from streams.routing import text_digest
from streams.topics import KNOWLEDGE, is_retraction_key

log = logging.getLogger(__name__)

_FLUSH_CHECK_S = 1.0  # how soon a flushed Redis is noticed and filled again
_PAUSE_S = 0.5
_RETRACTED = AnswerRetracted.__name__


class AnswerProjection(Protocol):
    """Where known answers are projected to, with the position they come from."""

    async def apply(self, partition: int, answers: Sequence[tuple[int, str, bytes | None]]) -> int: ...
    async def positions(self) -> dict[int, int]: ...


class KnowledgeProjection:
    """Follows the topic from where Redis is. A flushed Redis has lost its position, so everything is projected anew.

    What was retracted is held apart: while the topic is projected anew, an answer may not be seen again before its retraction is met.
    """

    def __init__(self, log_: Log, answers: AnswerProjection, codec: Codec) -> None:
        self._log = log_
        self._answers = answers
        self._codec = codec
        self._retracted_at: dict[str, int] = {}  # entry: offset of its latest retraction
        self._retracted: dict[str, set[str]] = {}  # entry: digests of all texts that were ever taken away from it
        self.ready = asyncio.Event()

    def is_retracted(self, entry_id: str, text: str) -> bool:
        """Whether a person took this very text away from this entry."""
        digests = self._retracted.get(entry_id)
        return digests is not None and ("" in digests or text_digest(text) in digests)

    async def run_forever(self) -> None:
        """Learn what was retracted, then project for ever."""
        anew = False
        while True:
            try:
                if not self.ready.is_set():
                    await self._load_retractions()
                    self.ready.set()
                anew = await self._project_until_flushed(anew=anew)
            except RetryableError as error:
                log.warning("projection_waits reason=%s", error)
                await asyncio.sleep(_PAUSE_S)

    async def _load_retractions(self) -> None:
        follower = await self._log.follow([KNOWLEDGE], None, "beginning")
        try:
            while not follower.caught_up():
                for record in await follower.next(200):
                    await self._note(record)
        finally:
            await follower.close()

    async def _note(self, record: LogRecord) -> bool:
        """Keep a retraction; whether it is one. The header tells, so that answers are not decoded."""
        if RecordHeaders.parse(record.headers).event != _RETRACTED:
            return False
        event = await own_event(self._codec, record)  # where it is unreadable, its key says what is meant
        entry_id, digest = (event.entry_id, event.text_digest) if isinstance(event, AnswerRetracted) else (_key(record), "")
        self._retracted.setdefault(entry_id, set()).add(digest)
        if not is_retraction_key(_key(record)):  # those lie in another partition, whose offsets say nothing of the entry's
            self._retracted_at[entry_id] = record.offset
        return True

    async def _project_until_flushed(self, *, anew: bool) -> bool:
        positions = {} if anew else await self._answers.positions()
        follower = await self._log.follow([KNOWLEDGE], None, {p: offset + 1 for p, offset in positions.items()})
        loop = asyncio.get_running_loop()
        try:
            checked = loop.time()
            while True:
                records = await follower.next(200)
                for partition in sorted({r.partition for r in records}):
                    rows = [await self._row(r) for r in records if r.partition == partition]
                    before = await self._answers.apply(partition, rows)
                    flushed = before < positions.get(partition, -1)
                    positions[partition] = max(before, rows[-1][0])
                    if flushed:
                        log.warning("redis_was_flushed: projecting all knowledge anew")
                        return True
                if loop.time() - checked > _FLUSH_CHECK_S:
                    checked = loop.time()
                    held = await self._answers.positions()
                    if any(held.get(partition, -1) < offset for partition, offset in positions.items()):
                        log.warning("redis_was_flushed: projecting all knowledge anew")
                        return True
        finally:
            await follower.close()

    async def _row(self, record: LogRecord) -> tuple[int, str, bytes | None]:
        """Offset, entry and answer; None where the entry is retracted by this record or a later one, or its text ever was.

        An answer that was derived before a retraction can be published behind it, and an old one can be all that compaction left.
        """
        key = _key(record)
        gone = await self._note(record) or record.offset < self._retracted_at.get(key, -1)
        if not gone and key in self._retracted:
            event = await own_event(self._codec, record)
            gone = self.is_retracted(key, event.text if isinstance(event, AnswerLearned) else "")
        return record.offset, key, None if gone else record.value


def _key(record: LogRecord) -> str:
    return (record.key or b"").decode("utf-8", "replace")
