"""The learning service: what the deep-learning service answered becomes knowledge, weak labels and verdicts on known answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from agents.checking import CheckingPorts, HitChecking
from agents.projecting import AnswerProjection, KnowledgeProjection
from schemas.codec import Codec
from schemas.events import GenerationFinished
from schemas.headers import RecordHeaders
from schemas.ids import derived_event_id
from schemas.knowledge import AnswerLearned
from schemas.record import Record
from streams.acknowledging import Acknowledger
from streams.app import App, batches_of, handle_batches
from streams.decoding import own_event
from streams.failpoints import Failpoints
from streams.idempotency import computed_answer
from streams.ports import Clock, GroupSource, Log, LogRecord, Outgoing, Publisher
from streams.semantic.ports import SameAnswerJudge
from streams.semantic.trust import TrustSettings
from streams.telemetry import Metrics, Tracing
from streams.topics import DL_RESULTS, FEEDBACK_LABELS, IDEMPOTENCY, KNOWLEDGE, LEARNING
from streams.weak_labels import weak_label

log = logging.getLogger(__name__)

_WORTH_KEEPING = ("stop", "length")  # an answer cut off by a deadline is no answer


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPorts:
    """What the learning service needs of the world. `judge` and `trust` are None where nothing is checked."""

    source: GroupSource
    publisher: Publisher
    log: Log
    answers: AnswerProjection
    judge: SameAnswerJudge | None
    trust: TrustSettings | None
    codec: Codec
    clock: Clock
    metrics: Metrics
    tracing: Tracing
    failpoints: Failpoints


def register(app: App, ports: LearningPorts) -> LearningService:
    """Add the agent that learns and the loops that project and that follow what is trusted."""
    service = LearningService(ports)

    @app.agent(batches_of(app, ports.source, DL_RESULTS), name="learning", concurrency=1)
    async def learning(stream: Any) -> None:
        await handle_batches(app, stream, 200, service.learn)

    @app.task
    async def projecting() -> None:
        await service.projection.run_forever()

    if service.checking is not None:
        app.task(service.checking.follow_forever)

    return service


class LearningService:
    """Learns from results. What a person took back, and what was judged before, is known before the first result is handled."""

    def __init__(self, ports: LearningPorts) -> None:
        self._ports = ports
        self._acks = Acknowledger(ports.publisher, ports.source, ports.failpoints, LEARNING)
        self.projection = KnowledgeProjection(ports.log, ports.answers, ports.codec)
        self.checking: HitChecking | None = None
        if ports.judge is not None and ports.trust is not None:
            checking = CheckingPorts(
                log=ports.log, codec=ports.codec, publisher=ports.publisher, clock=ports.clock, metrics=ports.metrics, judge=ports.judge,
                trust=ports.trust,
            )  # fmt: skip
            self.checking = HitChecking(checking)

    @property
    def ready(self) -> bool:
        """Whether results can be handled."""
        return self.projection.ready.is_set() and (self.checking is None or self.checking.ready.is_set())

    async def learn(self, records: Sequence[LogRecord]) -> None:
        """Publish what follows from each result, then acknowledge."""
        self._acks.take(records)
        await self.projection.ready.wait()
        if self.checking is not None:
            await self.checking.ready.wait()
        await self._acks.publish_then_ack([(record, await self._derived(record)) for record in records])

    async def _derived(self, record: LogRecord) -> list[Outgoing]:
        result = await own_event(self._ports.codec, record)
        if not isinstance(result, GenerationFinished):
            return []
        out: list[tuple[str, str, Record]] = []
        if (answered := computed_answer(result)) is not None:  # for whoever asks with its idempotency key again
            out.append((IDEMPOTENCY, answered.key, answered))
        if result.outcome == "completed" and result.finish_reason in _WORTH_KEEPING:
            out += await self._knowledge(result)
        cause = RecordHeaders.parse(record.headers)
        told: dict[str, str | int | float] = {"entry_id": result.entry_id or ""}
        trace = self._ports.tracing.hop(LEARNING, cause.traceparent, result.finished_at, told) if out else ""
        common = RecordHeaders(
            causation_id=cause.event_id, correlation_id=result.check.request_id if result.check else result.request_id,
            tenant=result.tenant, traceparent=trace,
        )  # fmt: skip
        made = []
        for ordinal, (topic, key, event) in enumerate(out):
            event_id = derived_event_id(record.topic, record.partition, record.offset, ordinal)
            headers = replace(common, event=type(event).__name__, event_id=event_id)
            made.append(Outgoing(topic=topic, key=key.encode(), event=event, headers=headers))
        return made

    async def _knowledge(self, result: GenerationFinished) -> list[tuple[str, str, Record]]:
        """What a good result teaches: topic, key and event each."""
        out: list[tuple[str, str, Record]] = []
        if (learned := self._learned(result)) is not None:
            out.append((KNOWLEDGE, learned.entry_id, learned))
        if (label := weak_label(result, self._ports.clock.now_ms())) is not None:
            out.append((FEEDBACK_LABELS, label.request_id, label))
        if self.checking is not None:
            out += await self.checking.checked(result)
        return out

    def _learned(self, result: GenerationFinished) -> AnswerLearned | None:
        if result.entry_id is None or result.guess is not None:  # a weak label is not believed
            return None
        if self.projection.is_retracted(result.entry_id, result.text):
            log.info("retracted_answer_not_learned entry_id=%s request_id=%s", result.entry_id, result.request_id)
            return None
        self._ports.metrics.learned.inc()
        return AnswerLearned(
            entry_id=result.entry_id, tenant=result.tenant, model=result.model, text=result.text, finish_reason=result.finish_reason,
            prompt_tokens=result.prompt_tokens, completion_tokens=result.completion_tokens, learned_from=result.request_id,
            cause=f"generated by {result.worker} under epoch {result.epoch}", learned_at=self._ports.clock.now_ms(),
            question=result.question,
        )  # fmt: skip
