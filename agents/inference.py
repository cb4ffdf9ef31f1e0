"""The inference service: admits requests, answers what is known, and sends the rest to the deep-learning service."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agents.derived_events import DerivedEvents, Work
from agents.idempotency import KeyedRequest, KeyPorts, KeyService
from agents.refusals import Refusals
from agents.semantic_knowledge import SemanticKnowledge
from agents.semantic_tier import Asked, Finding, SemanticTier
from agents.small_models import Outcome, SmallModelTier
from schemas.codec import Codec, UndecodableRecord
from schemas.events import Guess, Idempotency, InferenceRequested, Position
from schemas.headers import RecordHeaders
from schemas.knowledge import AnswerLearned
from streams.acknowledging import Acknowledger
from streams.admission import AdmissionLimits, Admitted, RequestRefused, admit, check_size
from streams.app import App, batches_of, handle_batches
from streams.ending import end_process_on_error
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.lanes import Lane
from streams.ports import AnswerStore, Clock, GroupSource, Log, LogRecord, Outgoing, Publisher
from streams.routing import EntryIds
from streams.semantic.questions import why_not
from streams.small_models import SMALL_TASKS, SmallAnswer, labels_to_choose_from, why_not_known
from streams.telemetry import Metrics, Tracing
from streams.topics import INFERENCE, REQUESTS

log = logging.getLogger(__name__)

MOST_AT_ONCE = 500  # bounds the latency of the first of a batch; larger ones measured no faster
_MOST_SEMANTIC = 32  # what a batch shares, the embedding, gains nothing beyond it, and the first of it waits for the last
_MOST_SMALL = 64
_LANE_ROOM = 2000
_DECODED_KEPT = 4096
_MOST_APART = 2000
_LOOK_UPS_AT_ONCE = 8  # of schema ids met for the first time: garbage may not occupy the registry

Lane_of = Literal["small", "semantic"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferencePorts:
    """What the inference service needs of the world."""

    source: GroupSource
    publisher: Publisher
    log: Log
    answers: AnswerStore
    codec: Codec
    clock: Clock
    entry_ids: EntryIds
    semantic: SemanticTier | None  # None: only identical requests are known
    knowledge: SemanticKnowledge | None  # what the semantic tier stands on
    semantic_max_temperature: float
    small_models: SmallModelTier
    limits: AdmissionLimits
    metrics: Metrics
    tracing: Tracing
    failpoints: Failpoints


def register(app: App, ports: InferencePorts) -> InferenceService:
    """Add the service's agent and its loop to a Faust app."""
    service = InferenceService(ports)

    @app.agent(batches_of(app, ports.source, REQUESTS), name="inference", concurrency=1)
    async def inference(stream: Any) -> None:
        await handle_batches(app, stream, MOST_AT_ONCE, service.handle)

    app.task(service.keys.follow_forever)
    if ports.knowledge is not None:
        app.task(ports.knowledge.follow_forever)
    return service


class InferenceService:
    """Handles batches of request records. Several batches may wait for their acknowledgement at once."""

    def __init__(self, ports: InferencePorts) -> None:
        self._ports = ports
        self._refusals = Refusals(INFERENCE, ports.limits, ports.clock)
        self._acks = Acknowledger(ports.publisher, ports.source, ports.failpoints, INFERENCE)
        self.keys = KeyService(
            KeyPorts(
                publisher=ports.publisher, log=ports.log, codec=ports.codec, clock=ports.clock, failpoints=ports.failpoints,
                max_deadline_ms=ports.limits.max_deadline_ms,
            )
        )  # fmt: skip
        self._derived = DerivedEvents(ports.clock, ports.metrics, ports.tracing, ports.limits.default_model)
        self._semantic_lane = Lane(self._find_semantic, _MOST_SEMANTIC, _LANE_ROOM)
        self._small_lane = Lane(self._ask_small, _MOST_SMALL, _LANE_ROOM)
        self._look_ups = asyncio.Semaphore(_LOOK_UPS_AT_ONCE)
        self._apart: set[asyncio.Task[None]] = set()
        self._decoded: OrderedDict[bytes, AnswerLearned] = OrderedDict()
        self._count_exact = ports.metrics.requests.labels("exact")
        self._count_admitted = ports.metrics.requests.labels("admitted")
        self._sizes = ports.metrics.batch_size.labels(INFERENCE)

    @property
    def ready(self) -> bool:
        """Whether keys and knowledge have been read from the log."""
        return self.keys.ready and (self._ports.knowledge is None or self._ports.knowledge.ready.is_set())

    async def handle(self, records: Sequence[LogRecord]) -> None:
        """Handle a batch. What needs a question to the registry goes apart, so that garbage holds nobody up."""
        if self._ports.knowledge is not None:
            await self._ports.knowledge.ready.wait()  # an index that is half there would make misses of what is known
        codec = self._ports.codec
        self._acks.take(records)
        known = [record for record in records if codec.knows(record.value)]
        if len(known) < len(records):
            for record in records:
                if not codec.knows(record.value):
                    self._go_apart(self._look_up_then_handle(record))
        if known:
            await self._handle_decodable(known)
        if len(self._apart) > _MOST_APART:  # the stream waits rather than memory grows
            await asyncio.wait(self._apart, return_when=asyncio.FIRST_COMPLETED)

    def _go_apart(self, handling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(handling)
        self._apart.add(task)
        task.add_done_callback(self._apart.discard)
        task.add_done_callback(end_process_on_error)

    async def _look_up_then_handle(self, record: LogRecord) -> None:
        async with self._look_ups:
            while True:
                try:
                    await asyncio.to_thread(self._ports.codec.decode, record.value)
                    break
                except UndecodableRecord:
                    break
                except OSError as error:  # without the registry nobody can tell: the record waits, others go on
                    log.warning("registry_away reason=%s", error)
                    await asyncio.sleep(1.0)
            await self._handle_decodable([record])

    async def _handle_decodable(self, records: Sequence[LogRecord]) -> None:
        works = [self._admit(record) for record in records]
        for work in works:
            if work.admitted is not None and work.idempotency is not None:
                self._go_apart(self._handle_keyed(work, work.admitted, work.idempotency))
        self._sizes.observe(len(records))
        await self._answer_by_tiers([work for work in works if work.idempotency is None])

    async def _handle_keyed(self, work: Work, admitted: Admitted, asked: Idempotency) -> None:
        """A request with an idempotency key waits for its key, and nobody waits for it."""

        async def by_tiers() -> list[Outgoing]:
            work.settled = asyncio.get_running_loop().create_future()
            await self._answer_by_tiers([work])
            await work.settled
            return work.out

        request = KeyedRequest(
            asked=asked, admitted=admitted, source=work.source, by_tiers=by_tiers,
            pass_on=lambda reason: self._derived.passed_on(work, admitted, reason),
            reply=lambda final: self._derived.reply(work, admitted, final),
        )  # fmt: skip
        try:
            work.out = await self.keys.settle(request)
        except RequestRefused as error:
            work.out = self._refusals.rejected(work.record, work.headers, admitted.request, error)
            self._ports.metrics.requests.labels(error.code).inc()
        await self._acks.publish_then_ack([(work.record, work.out)])

    async def _answer_by_tiers(self, works: Sequence[Work]) -> None:
        """Answer what is known exactly, and hand the rest to the lane of its tier, or pass it on."""
        asked = {w.entry_id: None for w in works if w.admitted is not None and w.admitted.known_allowed}
        answers, away = await self._known(list(asked))
        here: list[Work] = []
        small: list[Work] = []
        semantic: list[Work] = []
        for work in works:
            lane = self._guarded(work, lambda w, a: self._answer_or_choose(w, a, answers, away)) if work.admitted is not None else None
            (small if lane == "small" else semantic if lane == "semantic" else here).append(work)
        await self._publish(here)
        if small:
            await self._small_lane.put(small)
        if semantic:
            await self._semantic_lane.put(semantic)

    async def _publish(self, works: Sequence[Work]) -> None:
        """Publish what was derived, but for requests that wait for their key: those go on with it."""
        for work in works:
            if work.settled is not None:
                work.settled.set_result(None)
        if ready := [(w.record, w.out) for w in works if w.settled is None]:
            await self._acks.publish_then_ack(ready)

    def _guarded(self, work: Work, answer: Callable[[Work, Admitted], Lane_of]) -> Lane_of:
        """One request's failure is its own: it ends as a failed event."""
        assert work.admitted is not None
        try:
            return answer(work, work.admitted)
        except Exception as error:
            log.exception("request_failed request_id=%s", work.admitted.request.request_id)
            work.out = self._refusals.failed(work.record, work.headers, work.admitted, error)
            return None

    def _admit(self, record: LogRecord) -> Work:
        source = Position(topic=record.topic, partition=record.partition, offset=record.offset)
        work = Work(record, RecordHeaders.parse(record.headers), source)
        ports = self._ports
        request: InferenceRequested | None = None
        try:
            check_size(record.value, ports.limits)
            decoded = ports.codec.decode(record.value)
            if not isinstance(decoded, InferenceRequested):
                raise UndecodableRecord(f"{type(decoded).__name__} does not belong on {REQUESTS}")
            request = decoded
            if record.headers is None:
                raise RequestRefused("unreadable_headers", "a header's name is no UTF-8", "name headers in UTF-8")
            admitted = admit(request, work.headers, ports.limits, ports.clock.now_ms())
            work.entry_id = ports.entry_ids.entry_id(admitted.request)
            work.idempotency = ports.entry_ids.idempotency(admitted.request)
            work.admitted = admitted  # last: what raises before is rejected, and must not be handled besides
        except (UndecodableRecord, RequestRefused) as error:
            work.out = self._refusals.rejected(record, work.headers, request, error)
            code = error.code if isinstance(error, RequestRefused) else "undecodable"
            ports.metrics.requests.labels(code).inc()
        except Exception as error:  # a request that raises where none should: kept for a person to look at
            log.exception("admission_failed position=%s", work.source)
            work.out = self._refusals.rejected(record, work.headers, request, error)
        return work

    async def _known(self, entry_ids: list[str]) -> tuple[Mapping[str, bytes], bool]:
        """Known answers, and whether the store was away: then everything is unknown, which is slow but right."""
        try:
            return await self._ports.answers.get_many(entry_ids), False
        except RetryableError as error:
            log.warning("answers_away reason=%s", error)
            self._ports.metrics.store_away.inc()
            return {}, True

    def _answer_or_choose(self, work: Work, admitted: Admitted, answers: Mapping[str, bytes], away: bool) -> Lane_of:
        """Answer what is known exactly; otherwise the lane that goes on with it, or None where it is passed on already."""
        self._ports.failpoints.reach("inference.handle")
        value = answers.get(work.entry_id) if admitted.known_allowed else None
        learned = self._learned(value) if value is not None else None
        if learned is not None:
            work.out = self._derived.exact(work, admitted, learned)
            self._count_exact.inc()
            return None
        if admitted.request.task in SMALL_TASKS:
            return "small"
        why = "the store of known answers is away" if away else self._why_unknown(admitted)
        if self._ports.semantic is not None and admitted.cacheable:  # with no-cache for the question alone: its answer is learned
            why_not_semantic = why_not(admitted.request, self._ports.semantic_max_temperature)
            if not why_not_semantic:
                return "semantic"
            why = f"{why}; {why_not_semantic}"
        self._pass_on(work, admitted, why)
        return None

    def _pass_on(self, work: Work, admitted: Admitted, reason: str, finding: Finding | None = None) -> None:
        work.out = self._derived.passed_on(work, admitted, reason, finding)
        self._count_admitted.inc()

    async def _find_semantic(self, works: Sequence[Work]) -> None:
        """The semantic lane."""
        assert self._ports.semantic is not None
        scope_of = self._ports.entry_ids.scope
        asked = [
            Asked(request=a.request, scope=scope_of(a.request), entry_id=w.entry_id, serve=a.known_allowed)
            for w, a in ((work, work.admitted) for work in works)
            if a
        ]  # fmt: skip
        findings: Sequence[Finding | Exception]
        try:
            findings = await self._ports.semantic.find(asked)
        except Exception as error:
            log.exception("semantic_tier_failed requests=%s", len(works))
            findings = [error] * len(works)
        for work, finding in zip(works, findings, strict=True):
            self._guarded(work, lambda w, a, f=finding: self._settle_semantic(w, a, f))  # type: ignore[misc]  # a default in a lambda
        await self._publish(works)

    def _settle_semantic(self, work: Work, admitted: Admitted, finding: Finding | Exception) -> Lane_of:
        if isinstance(finding, Exception):  # a tier that breaks makes misses
            self._pass_on(work, admitted, f"the semantic tier failed: {finding!r}")
        elif finding.served is not None:
            work.out = self._derived.semantic(work, admitted, finding)
            self._ports.metrics.requests.labels("semantic").inc()
        else:
            self._pass_on(work, admitted, f"{self._why_unknown(admitted)}; {finding.reason}", finding)
        return None

    async def _ask_small(self, works: Sequence[Work]) -> None:
        """The small models' lane."""
        outcomes = await self._ports.small_models.answer([w.admitted.request for w in works if w.admitted])
        for work, outcome in zip(works, outcomes, strict=True):
            self._guarded(work, lambda w, a, o=outcome: self._settle_small(w, a, o))  # type: ignore[misc]  # a default in a lambda
        await self._publish(works)

    def _settle_small(self, work: Work, admitted: Admitted, outcome: Outcome) -> Lane_of:
        if isinstance(outcome, SmallAnswer):
            work.out = self._derived.small(work, admitted, outcome)
            self._ports.metrics.requests.labels("small-model").inc()
        elif isinstance(outcome, Guess):
            classifier = self._ports.small_models.classifier(admitted.request.model)
            labels = labels_to_choose_from(classifier, admitted.request.parameters.labels)
            work.out = self._derived.guessed(work, admitted, outcome, why_not_known(outcome), labels)
            self._count_admitted.inc()
        else:
            raise outcome
        return None

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
