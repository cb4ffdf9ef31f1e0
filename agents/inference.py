"""The inference service: admits requests, answers what is known, and sends the rest to the deep-learning service."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from agents.idempotency import KeyedRequest, KeyPorts, KeyService
from agents.refusals import Refusals
from schemas.codec import Codec, UndecodableRecord
from schemas.events import DeepLearningRequested, Idempotency, InferenceCompleted, InferenceRequested, Position, RequestAdmitted
from schemas.headers import RecordHeaders
from schemas.ids import derived_event_id, final_event_id, named_event_id
from schemas.knowledge import AnswerLearned
from streams.acknowledging import Acknowledger
from streams.admission import AdmissionLimits, Admitted, RequestRefused, admit, check_size
from streams.app import bytes_topic, handle_batches
from streams.ending import end_process_on_error
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.ports import AnswerStore, Clock, Log, Outgoing, Publisher
from streams.routing import EntryIds
from streams.telemetry import Metrics, Tracing
from streams.topics import DL_REQUESTS, INFERENCE, LIFECYCLE, REQUESTS

log = logging.getLogger(__name__)

MOST_AT_ONCE = 500  # bounds the latency of the first of a batch; larger ones measured no faster
_DECODED_KEPT = 4096
_MOST_APART = 2000
_LOOK_UPS_AT_ONCE = 8  # of schema ids met for the first time: garbage may not occupy the registry


@dataclass(frozen=True, slots=True, kw_only=True)
class InferencePorts:
    """What the inference service needs of the world."""

    publisher: Publisher
    log: Log
    answers: AnswerStore
    codec: Codec
    clock: Clock
    entry_ids: EntryIds
    limits: AdmissionLimits
    metrics: Metrics
    tracing: Tracing
    failpoints: Failpoints


@dataclass(slots=True)
class _Work:
    """One request record on its way through a batch, and the records derived from it."""

    event: Any
    headers: RecordHeaders
    source: Position
    admitted: Admitted | None = None
    entry_id: str = ""
    idempotency: Idempotency | None = None
    trace: str | None = None  # context of this hop's span, made once
    out: list[Outgoing] = field(default_factory=list)


def register(app: Any, ports: InferencePorts) -> InferenceService:
    """Add the service's agent and its loop to a Faust app."""
    service = InferenceService(ports)

    @app.agent(bytes_topic(app, REQUESTS), name="inference", concurrency=1)
    async def inference(stream: Any) -> None:
        await handle_batches(stream, MOST_AT_ONCE, service.handle)

    @app.task
    async def following_keys() -> None:
        await service.keys.follow_forever()

    return service


class InferenceService:
    """Handles batches of request records. Several batches may wait for their acknowledgement at once."""

    def __init__(self, ports: InferencePorts) -> None:
        self._ports = ports
        self._refusals = Refusals(INFERENCE, ports.limits, ports.clock)
        self.keys = KeyService(
            KeyPorts(
                publisher=ports.publisher, log=ports.log, codec=ports.codec, clock=ports.clock, failpoints=ports.failpoints,
                max_deadline_ms=ports.limits.max_deadline_ms,
            )
        )  # fmt: skip
        self._acks = Acknowledger(ports.publisher, ports.failpoints, INFERENCE)
        self._look_ups = asyncio.Semaphore(_LOOK_UPS_AT_ONCE)
        self._apart: set[asyncio.Task[None]] = set()
        self._decoded: OrderedDict[bytes, AnswerLearned] = OrderedDict()
        self._count_exact = ports.metrics.requests.labels("exact")
        self._count_admitted = ports.metrics.requests.labels("admitted")
        self._seconds_exact = ports.metrics.request_seconds.labels("exact")
        self._sizes = ports.metrics.batch_size.labels(INFERENCE)

    async def handle(self, events: Sequence[Any]) -> None:
        """Handle a batch. What needs a question to the registry goes apart, so that garbage holds nobody up."""
        codec = self._ports.codec
        self._acks.take(events)
        known = [event for event in events if codec.knows(event.value)]
        if len(known) < len(events):
            for event in events:
                if not codec.knows(event.value):
                    self._go_apart(self._look_up_then_handle(event))
        if known:
            await self._handle_decodable(known)
        if len(self._apart) > _MOST_APART:  # the stream waits rather than memory grows
            await asyncio.wait(self._apart, return_when=asyncio.FIRST_COMPLETED)

    def _go_apart(self, handling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(handling)
        self._apart.add(task)
        task.add_done_callback(self._apart.discard)
        task.add_done_callback(end_process_on_error)

    async def _look_up_then_handle(self, event: Any) -> None:
        async with self._look_ups:
            while True:
                try:
                    await asyncio.to_thread(self._ports.codec.decode, event.value)
                    break
                except UndecodableRecord:
                    break
                except OSError as error:  # without the registry nobody can tell: the record waits, others go on
                    log.warning("registry_away reason=%s", error)
                    await asyncio.sleep(1.0)
            await self._handle_decodable([event])

    async def _handle_decodable(self, events: Sequence[Any]) -> None:
        works = [self._admit(event) for event in events]
        for work in works:
            if work.admitted is not None and work.idempotency is not None:
                self._go_apart(self._handle_keyed(work, work.admitted, work.idempotency))
        works = [work for work in works if work.idempotency is None]
        self._sizes.observe(len(events))
        if works:
            await self._answer_by_tiers(works)
            await self._acks.publish_then_ack([(w.event, w.out) for w in works])

    async def _handle_keyed(self, work: _Work, admitted: Admitted, asked: Idempotency) -> None:
        """A request with an idempotency key waits for its key, and nobody waits for it."""

        async def by_tiers() -> list[Outgoing]:
            await self._answer_by_tiers([work])
            return work.out

        request = KeyedRequest(
            asked=asked, admitted=admitted, source=work.source, by_tiers=by_tiers,
            pass_on=lambda reason: self._passed_on(work, admitted, reason), reply=lambda final: self._reply(work, admitted, final),
        )  # fmt: skip
        try:
            work.out = await self.keys.settle(request)
        except RequestRefused as error:
            work.out = self._refusals.rejected(work.event.message, work.headers, admitted.request, error)
            self._ports.metrics.requests.labels(error.code).inc()
        await self._acks.publish_then_ack([(work.event, work.out)])

    async def _answer_by_tiers(self, works: Sequence[_Work]) -> None:
        asked = {w.entry_id: None for w in works if w.admitted is not None and w.admitted.known_allowed}
        answers, away = await self._known(list(asked))
        for work in works:
            if work.admitted is not None:
                try:
                    self._answer_or_pass_on(work, work.admitted, answers, away)
                except Exception as error:  # one request's failure is its own
                    log.exception("request_failed request_id=%s", work.admitted.request.request_id)
                    work.out = self._refusals.failed(work.event.message, work.headers, work.admitted, error)

    def _admit(self, event: Any) -> _Work:
        message = event.message
        source = Position(topic=message.topic, partition=message.partition, offset=message.offset)
        work = _Work(event, RecordHeaders.parse(message.headers), source)
        ports = self._ports
        request: InferenceRequested | None = None
        try:
            check_size(event.value, ports.limits)
            decoded = ports.codec.decode(event.value)
            if not isinstance(decoded, InferenceRequested):
                raise UndecodableRecord(f"{type(decoded).__name__} does not belong on {REQUESTS}")
            request = decoded
            work.admitted = admit(request, work.headers, ports.limits, ports.clock.now_ms())
            work.entry_id = ports.entry_ids.entry_id(work.admitted.request)
            work.idempotency = ports.entry_ids.idempotency(work.admitted.request)
        except (UndecodableRecord, RequestRefused) as error:
            work.out = self._refusals.rejected(message, work.headers, request, error)
            code = error.code if isinstance(error, RequestRefused) else "undecodable"
            ports.metrics.requests.labels(code).inc()
        except Exception as error:  # a request that raises where none should: kept for a person to look at
            log.exception("admission_failed position=%s", work.source)
            work.out = self._refusals.rejected(message, work.headers, request, error)
        return work

    async def _known(self, entry_ids: list[str]) -> tuple[Mapping[str, bytes], bool]:
        """Known answers, and whether the store was away: then everything is unknown, which is slow but right."""
        try:
            return await self._ports.answers.get_many(entry_ids), False
        except RetryableError as error:
            log.warning("answers_away reason=%s", error)
            self._ports.metrics.store_away.inc()
            return {}, True

    def _answer_or_pass_on(self, work: _Work, admitted: Admitted, answers: Mapping[str, bytes], away: bool) -> None:
        self._ports.failpoints.reach("inference.handle")
        value = answers.get(work.entry_id) if admitted.known_allowed else None
        learned = self._learned(value) if value is not None else None
        if learned is not None:
            work.out = [self._completed(work, admitted, learned)]
            self._count_exact.inc()
            return
        reason = "the store of known answers is away" if away else self._why_unknown(admitted)
        work.out = self._passed_on(work, admitted, reason)
        self._count_admitted.inc()

    def _learned(self, value: bytes) -> AnswerLearned | None:
        """Decode a known answer; None where that is not possible, which is a miss.

        The hottest are kept decoded, by their very bytes, so that nothing can be out of date.
        """
        learned = self._decoded.get(value)
        if learned is None:
            try:
                decoded = self._ports.codec.decode(value)
            except (UndecodableRecord, OSError) as error:
                log.warning("known_answer_unreadable reason=%s", error)
                return None
            if not isinstance(decoded, AnswerLearned):
                return None
            learned = self._decoded[value] = decoded
            if len(self._decoded) > _DECODED_KEPT:
                self._decoded.popitem(last=False)
        return learned

    @staticmethod
    def _why_unknown(admitted: Admitted) -> str:
        if admitted.known_allowed:
            return "no identical request was answered before"
        return f"known answers are not asked for (cache {admitted.request.cache}, temperature {admitted.request.parameters.temperature})"

    def _completed(self, work: _Work, admitted: Admitted, learned: AnswerLearned) -> Outgoing:
        request, now = admitted.request, self._ports.clock.now_ms()
        event = InferenceCompleted(
            request_id=request.request_id, tenant=request.tenant, model=request.model, tier="exact",
            reason="an identical request was answered before", text=learned.text, finish_reason=learned.finish_reason,
            prompt_tokens=learned.prompt_tokens, completion_tokens=learned.completion_tokens,
            entry_id=learned.entry_id, learned_from=learned.learned_from,
            requested_at=request.requested_at, admitted_at=now, completed_at=now, source=work.source,
        )  # fmt: skip
        self._seconds_exact.observe(max(0, now - request.requested_at) / 1000)
        return self._reply(work, admitted, event)

    def _reply(self, work: _Work, admitted: Admitted, event: InferenceCompleted) -> Outgoing:
        headers = self._headers(work, admitted, event, final_event_id(event.tenant, event.request_id), final=True)
        return Outgoing(
            topic=admitted.reply_to.topic, partition=admitted.reply_to.partition,
            key=event.request_id.encode(), event=event, headers=headers,
        )  # fmt: skip

    def _passed_on(self, work: _Work, admitted: Admitted, reason: str) -> list[Outgoing]:
        request, now = admitted.request, self._ports.clock.now_ms()
        p = request.parameters
        seed = p.seed if p.seed is not None else UUID(request.request_id).int & (1 << 62) - 1
        asked = DeepLearningRequested(
            request_id=request.request_id, tenant=request.tenant, model=request.model, messages=request.messages,
            parameters=replace(p, seed=seed), priority=request.priority, entry_id=work.entry_id if admitted.cacheable else None,
            requested_at=request.requested_at, admitted_at=now, deadline_at=admitted.deadline_ms,
            reply_to=admitted.reply_to, source=work.source, idempotency=work.idempotency,
        )  # fmt: skip
        told = RequestAdmitted(
            request_id=request.request_id, tenant=request.tenant, model=request.model, reason=reason,
            requested_at=request.requested_at, admitted_at=now, deadline_at=admitted.deadline_ms,
            reply_to=admitted.reply_to, source=work.source,
        )  # fmt: skip
        asked_id = derived_event_id(work.source.topic, work.source.partition, work.source.offset)
        told_id = named_event_id(request.request_id, "admitted", work.source.partition, work.source.offset)
        return [
            Outgoing(
                topic=LIFECYCLE, key=request.request_id.encode(), event=told, headers=self._headers(work, admitted, told, told_id)
            ),
            Outgoing(
                topic=DL_REQUESTS, key=request.model.encode(), event=asked, headers=self._headers(work, admitted, asked, asked_id)
            ),
        ]

    def _headers(self, work: _Work, admitted: Admitted, event: object, event_id: str, *, final: bool = False) -> RecordHeaders:
        request = admitted.request
        if work.trace is None:
            attributes = {"request_id": request.request_id}
            work.trace = self._ports.tracing.hop(INFERENCE, work.headers.traceparent, request.requested_at, attributes)
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
