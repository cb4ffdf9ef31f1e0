"""Keeps the vector index and what is trusted in line with the log: read from the beginning at the start, followed from then on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from schemas.codec import Codec
from schemas.knowledge import AnswerLearned
from streams.decoding import own_event
from streams.errors import RetryableError
from streams.ports import Log, LogFollower, LogRecord
from streams.semantic.ports import IndexedEntry, VectorIndex
from streams.semantic.questions import unpacked
from streams.semantic.trust import Trust
from streams.topics import KNOWLEDGE, KNOWLEDGE_TRUST, is_retraction_key

log = logging.getLogger(__name__)

_PAUSE_S = 0.5


class SemanticKnowledge:
    """`index` is None where somebody else keeps it. Entries of another embedding version are left out: their vectors say nothing here."""

    def __init__(self, log_: Log, codec: Codec, index: VectorIndex | None, trust: Trust | None, embedding_version: str) -> None:
        self._log = log_
        self._codec = codec
        self._index = index
        self._trust = trust
        self._embedding_version = embedding_version
        self._topics = [topic for topic, wanted in ((KNOWLEDGE, index), (KNOWLEDGE_TRUST, trust)) if wanted is not None]
        self.ready = asyncio.Event()

    async def follow_forever(self) -> None:
        """Everything from the beginning again when Kafka was away: entries have ids of their own, so repeats change nothing."""
        while True:
            try:
                follower = await self._log.follow(self._topics, None, "beginning")
                try:
                    await self._follow(follower)
                finally:
                    await follower.close()
            except RetryableError as error:
                log.warning("semantic_knowledge_waits reason=%s", error)
                await asyncio.sleep(_PAUSE_S)

    async def _follow(self, follower: LogFollower) -> None:
        while True:
            records = await follower.next(200)
            await self._index_answers([r for r in records if r.topic == KNOWLEDGE])
            for record in records:
                if record.topic == KNOWLEDGE_TRUST and self._trust is not None:
                    self._trust.fold(await own_event(self._codec, record))
            if not self.ready.is_set() and follower.caught_up():
                self.ready.set()
                log.info("semantic_knowledge_ready entries=%s", await self._index.count() if self._index is not None else "elsewhere")

    async def _index_answers(self, records: Sequence[LogRecord]) -> None:
        """The last of each entry counts. While the index is away its records wait."""
        if self._index is None or not records:
            return
        keyed = {(record.key or b"").decode("utf-8", "replace"): record for record in records}
        newest = {key: record for key, record in keyed.items() if not is_retraction_key(key)}
        entries, gone = [], []
        for key, record in newest.items():
            event = await own_event(self._codec, record) if record.value is not None else None
            question = event.question if isinstance(event, AnswerLearned) else None
            if question is not None and question.embedding_version == self._embedding_version:
                entries.append(IndexedEntry(entry_id=key, scope=question.scope, vector=unpacked(question)))
            else:
                gone.append(key)
        while True:
            try:
                await self._index.upsert(entries)
                await self._index.remove(gone)
                return
            except RetryableError as error:
                log.warning("index_away reason=%s", error)
                await asyncio.sleep(_PAUSE_S)
