"""What the inference service derives from one request: its final event where the answer is known, or else its way to deep learning."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from msgspec.structs import replace

from agents.semantic_tier import Finding
from schemas.events import DeepLearningRequested, Guess, Idempotency, InferenceCompleted, Position, RequestAdmitted
from schemas.headers import RecordHeaders
from schemas.ids import derived_event_id, final_event_id, named_event_id
from schemas.knowledge import AnswerLearned
from streams.admission import Admitted
from streams.ports import Clock, LogRecord, Outgoing
from streams.semantic.questions import check_request_id
from streams.small_models import CLASSIFY, SmallAnswer, asked_for_a_label
from streams.telemetry import Metrics, Tracing
from streams.topics import DL_REQUESTS, INFERENCE, LIFECYCLE

_CHECK_PRIORITY = -100  # a check waits for everybody: its asker has an answer already
_CHECK_MS = 120_000


@dataclass(slots=True)
class Work:
    """One request record on its way through the service, and the records derived from it."""

    record: LogRecord
    headers: RecordHeaders
    source: Position
    admitted: Admitted | None = None
    entry_id: str = ""
    idempotency: Idempotency | None = None
    settled: asyncio.Future[None] | None = None  # of a request that waits for its key: done when `out` is there
    trace: str | None = None  # context of this hop's span, made once
    out: list[Outgoing] = field(default_factory=list)


class DerivedEvents:
    """Makes the events; `language_model` decides where a small model does not know."""

    def __init__(self, clock: Clock, metrics: Metrics, tracing: Tracing, language_model: str) -> None:
        self._clock = clock
        self._tracing = tracing
        self._language_model = language_model
        self._seconds = {tier: metrics.request_seconds.labels(tier) for tier in ("exact", "semantic", "small-model")}

    def exact(self, work: Work, admitted: Admitted, learned: AnswerLearned) -> list[Outgoing]:
        """The final event of an identical request."""
        return [self._known(work, admitted, "exact", "an identical request was answered before", learned)]

    def semantic(self, work: Work, admitted: Admitted, finding: Finding) -> list[Outgoing]:
        """The final event of a request that asks the same as a known one, and the order to check it where there is one."""
        assert finding.served is not None
        final = self._known(
            work, admitted, "semantic", finding.reason, finding.served, similarity=finding.similarity, score=finding.score
        )  # fmt: skip
        return [final] if finding.check is None else [final, self._check(work, admitted, finding)]

    def small(self, work: Work, admitted: Admitted, answer: SmallAnswer) -> list[Outgoing]:
        """The final event of a request that a small model answers."""
        request, now = admitted.request, self._clock.now_ms()
        event = InferenceCompleted(
            request_id=request.request_id, tenant=request.tenant, model=request.model, tier="small-model", reason=answer.reason,
            text=answer.text, finish_reason="stop", prompt_tokens=0, completion_tokens=0, requested_at=request.requested_at,
            admitted_at=now, completed_at=now, source=work.source, confidence=answer.confidence, embedding=answer.embedding,
        )  # fmt: skip
        return [self._final(work, admitted, event)]

    def reply(self, work: Work, admitted: Admitted, event: InferenceCompleted) -> Outgoing:
        """A final event that somebody else made, on its way to whoever asked."""
        headers = self._headers(work, admitted, event, final_event_id(event.tenant, event.request_id), final=True)
        return Outgoing(
            topic=admitted.reply_to.topic, partition=admitted.reply_to.partition,
            key=event.request_id.encode(), event=event, headers=headers,
        )  # fmt: skip

    def passed_on(self, work: Work, admitted: Admitted, reason: str, finding: Finding | None = None) -> list[Outgoing]:
        """The way to the language model. What was found rides along, so that the answer can be found by it from then on."""
        request = admitted.request
        asked = replace(
            self._asked(work, admitted), question=finding.question if finding else None, check=finding.check if finding else None
        )  # fmt: skip
        return self._admitted(work, admitted, asked, reason, request.model)

    def guessed(self, work: Work, admitted: Admitted, guess: Guess, reason: str, labels: tuple[str, ...]) -> list[Outgoing]:
        """The way to the language model of a text that a small model is not sure of: it chooses one of the labels."""
        plain = self._asked(work, admitted)
        assert plain.parameters.seed is not None
        messages, parameters = asked_for_a_label(guess.text, labels, plain.parameters.seed)
        asked = replace(
            plain, model=self._language_model, task=CLASSIFY, messages=messages, parameters=parameters, guess=guess
        )  # fmt: skip
        return self._admitted(work, admitted, asked, reason, self._language_model)

    def _known(  # the facts of one event
        self, work: Work, admitted: Admitted, tier: str, reason: str, learned: AnswerLearned, *,
        similarity: float | None = None, score: float | None = None,
    ) -> Outgoing:  # fmt: skip
        request, now = admitted.request, self._clock.now_ms()
        event = InferenceCompleted(
            request_id=request.request_id, tenant=request.tenant, model=request.model, tier=tier, reason=reason, text=learned.text,
            finish_reason=learned.finish_reason, prompt_tokens=learned.prompt_tokens, completion_tokens=learned.completion_tokens,
            entry_id=learned.entry_id, learned_from=learned.learned_from, requested_at=request.requested_at, admitted_at=now,
            completed_at=now, source=work.source, similarity=similarity, confidence=score,
        )  # fmt: skip
        return self._final(work, admitted, event)

    def _final(self, work: Work, admitted: Admitted, event: InferenceCompleted) -> Outgoing:
        self._seconds[event.tier].observe(max(0, event.completed_at - event.requested_at) / 1000)
        return self.reply(work, admitted, event)

    def _asked(self, work: Work, admitted: Admitted) -> DeepLearningRequested:
        request, p = admitted.request, admitted.request.parameters
        seed = p.seed if p.seed is not None else UUID(request.request_id).int & (1 << 62) - 1
        return DeepLearningRequested(
            request_id=request.request_id, tenant=request.tenant, model=request.model, messages=request.messages,
            parameters=replace(p, seed=seed), priority=request.priority, entry_id=work.entry_id if admitted.cacheable else None,
            requested_at=request.requested_at, admitted_at=self._clock.now_ms(), deadline_at=admitted.deadline_ms,
            reply_to=admitted.reply_to, source=work.source, task=request.task, idempotency=work.idempotency,
        )  # fmt: skip

    def _admitted(self, work: Work, admitted: Admitted, asked: DeepLearningRequested, reason: str, model: str) -> list[Outgoing]:
        told = RequestAdmitted(
            request_id=asked.request_id, tenant=asked.tenant, model=model, reason=reason, requested_at=asked.requested_at,
            admitted_at=asked.admitted_at, deadline_at=asked.deadline_at, reply_to=asked.reply_to, source=work.source,
        )  # fmt: skip
        asked_id = derived_event_id(work.source.topic, work.source.partition, work.source.offset)
        told_id = named_event_id(asked.request_id, "admitted", work.source.partition, work.source.offset)
        return [
            Outgoing(topic=LIFECYCLE, key=asked.request_id.encode(), event=told, headers=self._headers(work, admitted, told, told_id)),
            Outgoing(topic=DL_REQUESTS, key=model.encode(), event=asked, headers=self._headers(work, admitted, asked, asked_id)),
        ]

    def _check(self, work: Work, admitted: Admitted, finding: Finding) -> Outgoing:
        """A computation of its own, with an id that comes out the same again; nobody waits for it, and it has time."""
        assert finding.check is not None
        plain = self._asked(work, admitted)
        now = plain.admitted_at
        asked = replace(
            plain, request_id=check_request_id(plain.request_id, finding.check.entry_id), priority=_CHECK_PRIORITY,
            question=finding.question, check=finding.check, deadline_at=now + _CHECK_MS, idempotency=None,
        )  # fmt: skip
        event_id = derived_event_id(work.source.topic, work.source.partition, work.source.offset, 1)
        headers = replace(
            self._headers(work, admitted, asked, event_id), correlation_id=asked.request_id, deadline_ms=asked.deadline_at
        )  # fmt: skip
        return Outgoing(topic=DL_REQUESTS, key=asked.model.encode(), event=asked, headers=headers)

    def _headers(self, work: Work, admitted: Admitted, event: object, event_id: str, *, final: bool = False) -> RecordHeaders:
        request = admitted.request
        if work.trace is None:
            attributes = {"request_id": request.request_id}
            work.trace = self._tracing.hop(INFERENCE, work.headers.traceparent, request.requested_at, attributes)
        return RecordHeaders(
            event=type(event).__name__,
            tenant=request.tenant,
            event_id=event_id,
            causation_id=work.headers.event_id or derived_event_id(work.source.topic, work.source.partition, work.source.offset, -1),
            correlation_id=request.request_id,
            traceparent=work.trace,
            deadline_ms=None if final else admitted.deadline_ms,
            reply_to=None if final else admitted.reply_to,
        )
