"""Checks of semantic hits: compares a known answer with the fresh one, and keeps how far each entry and scope is to be trusted."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

from schemas.codec import Codec
from schemas.events import GenerationFinished
from schemas.headers import RecordHeaders
from schemas.ids import named_event_id
from schemas.knowledge import EntryObserved, ScopeAssessed, ScopeReopened, SemanticHitChecked
from schemas.record import Record
from streams.acknowledging import publish_until_done
from streams.decoding import own_event
from streams.errors import RetryableError
from streams.ports import Clock, Log, Outgoing, Publisher
from streams.semantic.ports import SameAnswerJudge
from streams.semantic.trust import Trust, TrustSettings, trust_key
from streams.telemetry import Metrics
from streams.topics import KNOWLEDGE_CHECKS, KNOWLEDGE_TRUST, LEARNING

log = logging.getLogger(__name__)

_PAUSE_S = 0.5
_REOPENED_SINCE_MS = 24 * 3_600_000  # a wish that is older than that is asked again by the person who had it


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckingPorts:
    """What checking needs of the world."""

    log: Log
    codec: Codec
    publisher: Publisher
    clock: Clock
    metrics: Metrics
    judge: SameAnswerJudge
    trust: TrustSettings


class HitChecking:
    """Results of one model come to one learning agent, which so is the only one that judges its scopes.

    What it knows is on the compacted topic: it is read before the first result is handled, and followed from then on.
    """

    def __init__(self, ports: CheckingPorts) -> None:
        self._log, self._codec, self._publisher = ports.log, ports.codec, ports.publisher
        self._clock, self._metrics, self._judge = ports.clock, ports.metrics, ports.judge
        self._trust = Trust(ports.trust)
        self.ready = asyncio.Event()

    async def checked(self, result: GenerationFinished) -> list[tuple[str, str, Record]]:
        """What follows from a result that was asked to check a known answer: topic, key and event each."""
        check, question = result.check, result.question
        if check is None or question is None:
            return []
        if self._trust.was_counted(question.scope, result.request_id):  # the log may hold a result twice
            return []
        verdict = await asyncio.to_thread(self._judge.judge, question.text, check.known_text, result.text)
        self._metrics.semantic_checks.labels("same" if verdict.same else "different").inc()
        event = SemanticHitChecked(
            request_id=result.request_id, met_by=check.request_id, tenant=result.tenant, scope=question.scope, entry_id=check.entry_id,
            similarity=check.similarity, score=check.score, served=check.served, same=verdict.same, confidence=verdict.confidence,
            judge=self._judge.version, checked_at=self._clock.now_ms(),
        )  # fmt: skip
        out: list[tuple[str, str, Record]] = [(KNOWLEDGE_CHECKS, question.scope, event)]
        for counted in self._trust.count(event, result.model):
            if isinstance(counted, EntryObserved | ScopeAssessed):
                out.append((KNOWLEDGE_TRUST, trust_key(counted), counted))
            else:
                out.append((KNOWLEDGE_CHECKS, question.scope, counted))
        return out

    async def follow_forever(self) -> None:
        """Learn what is trusted, then follow it, and do what people ask for."""
        while True:
            try:
                await self._follow()
            except RetryableError as error:
                log.warning("trust_waits reason=%s", error)
                await asyncio.sleep(_PAUSE_S)

    async def _follow(self) -> None:
        async with AsyncExitStack() as opened:
            trusted = await self._log.follow([KNOWLEDGE_TRUST], None, "beginning")
            opened.push_async_callback(trusted.close)
            wishes = await self._log.follow([KNOWLEDGE_CHECKS], None, self._clock.now_ms() - _REOPENED_SINCE_MS)
            opened.push_async_callback(wishes.close)
            while True:
                for record in await trusted.next(0 if self.ready.is_set() else 200):
                    self._trust.fold(await own_event(self._codec, record))
                if trusted.caught_up():
                    self.ready.set()
                for record in await wishes.next(200 if self.ready.is_set() else 0):
                    if RecordHeaders.parse(record.headers).event == ScopeReopened.__name__:
                        await self._reopen(await own_event(self._codec, record))

    async def _reopen(self, event: Record | None) -> None:
        if not isinstance(event, ScopeReopened):
            return
        assessed = self._trust.reopen(event, self._clock.now_ms())
        if assessed is None:  # done before, by us or by another learning agent
            return
        event_id = named_event_id(event.scope, "reopened", event.reopened_at)
        headers = RecordHeaders(event="ScopeAssessed", event_id=event_id, tenant=event.tenant)
        out = Outgoing(topic=KNOWLEDGE_TRUST, key=trust_key(assessed).encode(), event=assessed, headers=headers)
        await publish_until_done(self._publisher, [out], LEARNING)
