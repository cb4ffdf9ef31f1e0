"""The dispatcher: holds the requests that nobody knew, and places each on a worker that has room.

It owns the partitions of `deep-learning.requests` that its group gives it, each a shard with models and workers of its own.
A record is acknowledged once its RequestQueued is durable; the queue itself is rebuilt from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from schemas.codec import Codec
from schemas.events import (
    DeepLearningRequested,
    GenerationFinished,
    GenerationMoved,
    InferenceFailed,
    RequestDispatched,
    RequestQueued,
    WorkerReported,
)
from schemas.headers import RecordHeaders
from schemas.ids import final_event_id, named_event_id
from schemas.record import Record
from streams.acknowledging import Acknowledger, publish_until_done
from streams.app import App, batches_of, handle_batches
from streams.coalescing import FRESH_MS, KEYED_KEPT_MS, shared_final
from streams.decoding import own_event
from streams.dispatch_state import DispatchState, Held, evolve
from streams.dispatching import decide
from streams.ending import end_process_on_error
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.ports import Clock, GroupSource, Log, LogRecord, Outgoing, Publisher
from streams.routing import partition_for
from streams.telemetry import Metrics, Tracing
from streams.topics import DISPATCHER, DL_DISPATCH, DL_REQUESTS, DL_RESULTS, DL_WORKERS, LIFECYCLE

log = logging.getLogger(__name__)

_TICK_S = 0.1  # how late a death or a deadline may be seen
_REMEDIES = {
    "deadline": ("deadline_exceeded", "no worker had room before its deadline", "send it again with a later deadline, or add workers"),
    "error": ("placements_exhausted", "every worker it was placed on gave it back or died", "look at the workers: headrace status"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherPorts:
    """What the dispatcher needs of the world. `instance` is its name in events, `shards` the partitions of its topic."""

    instance: str
    shards: int
    source: GroupSource
    publisher: Publisher
    log: Log
    codec: Codec
    clock: Clock
    heartbeat_ms: int
    max_deadline_ms: int
    metrics: Metrics
    tracing: Tracing
    failpoints: Failpoints


def register(app: App, ports: DispatcherPorts) -> None:
    """Add the agent that queues, and the loops that listen to workers and place."""
    service = DispatcherService(ports)

    @app.agent(batches_of(app, ports.source, DL_REQUESTS), name="dispatcher", concurrency=1)
    async def dispatcher(stream: Any) -> None:
        await handle_batches(app, stream, 200, service.queue)

    @app.on_partitions_assigned.connect
    async def assigned(_app: Any, assigned: Any, **_kwargs: Any) -> None:
        service.own({tp.partition for tp in assigned if tp.topic == DL_REQUESTS})

    @app.on_partitions_revoked.connect
    async def revoked(_app: Any, revoked: Any, **_kwargs: Any) -> None:
        service.disown({tp.partition for tp in revoked if tp.topic == DL_REQUESTS})

    @app.task
    async def placing() -> None:
        await service.place_forever()

    @app.task
    async def listening() -> None:
        await service.listen_forever()


class DispatcherService:
    """The shards it owns, and the loops around them. Everything runs on one event loop; decisions never await."""

    def __init__(self, ports: DispatcherPorts) -> None:
        self._ports = ports
        self._shards: dict[int, DispatchState] = {}
        self._rebuilding: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._acks = Acknowledger(ports.publisher, ports.source, ports.failpoints, DISPATCHER)

    def own(self, partitions: set[int]) -> None:
        """Take shards over under a new epoch; nothing is placed before their state is rebuilt from the log."""
        for partition in partitions - set(self._shards):
            now = self._ports.clock.now_ms()
            state = DispatchState(self._ports.instance, now, self._ports.heartbeat_ms)
            self._shards[partition] = state
            self._rebuilding[partition] = asyncio.create_task(self._rebuild(partition, state))
            self._rebuilding[partition].add_done_callback(end_process_on_error)

    def disown(self, partitions: set[int]) -> None:
        """Give shards up: another dispatcher rebuilds them."""
        for partition in partitions:
            self._shards.pop(partition, None)
            if (task := self._rebuilding.pop(partition, None)) is not None:
                task.cancel()

    async def _rebuild(self, partition: int, state: DispatchState) -> None:
        since = self._ports.clock.now_ms() - self._ports.max_deadline_ms
        while True:
            try:
                requests = await self._ports.log.read(DL_REQUESTS, [partition], since)
                dispatches = await self._ports.log.read(DL_DISPATCH, None, since)
                results = await self._ports.log.read(DL_RESULTS, [partition], since - max(FRESH_MS, KEYED_KEPT_MS))
                break
            except RetryableError as error:
                log.warning("rebuild_waits partition=%s reason=%s", partition, error)
                await asyncio.sleep(0.5)
        for number, record in enumerate((*requests, *dispatches, *results)):
            if (event := await own_event(self._ports.codec, record)) is not None:
                evolve(state, event, self._ports.clock.now_ms())
            if number % 500 == 0:  # ten minutes of a busy log are long; heartbeats must be heard meanwhile
                await asyncio.sleep(0)
        log.info("shard_rebuilt partition=%s held=%s", partition, len(state.held))
        self._rebuilding.pop(partition, None)
        self._wake.set()

    async def queue(self, records: Sequence[LogRecord]) -> None:
        """Hold requests, and acknowledge each once its RequestQueued is durable."""
        self._acks.take(records)
        derived: list[tuple[LogRecord, list[Outgoing]]] = []
        for record in records:
            request = await own_event(self._ports.codec, record)
            shard = self._shards.get(record.partition)
            out: list[Outgoing] = []
            if isinstance(request, DeepLearningRequested) and shard is not None:
                evolve(shard, request, self._ports.clock.now_ms())
                if request.request_id in shard.held:  # a repeat of one that is done needs nothing
                    out = [self._queued(shard, request, RecordHeaders.parse(record.headers))]
            derived.append((record, out))
        await self._acks.publish_then_ack(derived)
        self._wake.set()

    def _queued(self, shard: DispatchState, request: DeepLearningRequested, cause: RecordHeaders) -> Outgoing:
        now = self._ports.clock.now_ms()
        waiting = shard.waiting(request.model)
        self._ports.metrics.waiting.labels(request.model).set(waiting)
        event = RequestQueued(
            request_id=request.request_id, model=request.model, waiting=waiting, dispatcher=shard.dispatcher,
            dispatcher_epoch=shard.dispatcher_epoch, queued_at=now,
        )  # fmt: skip
        shard.traces[request.request_id] = cause.traceparent
        event_id = named_event_id(request.request_id, "queued", shard.dispatcher_epoch)
        headers = replace(self._headers(event, request, event_id, cause.traceparent), causation_id=cause.event_id)
        return Outgoing(topic=LIFECYCLE, key=request.request_id.encode(), event=event, headers=headers)

    async def place_forever(self) -> None:
        """Decide whenever something changed, and at every tick; publish; never acknowledge a decision that isn't durable."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TICK_S)
            self._wake.clear()
            answers: list[Outgoing] = []
            out: list[Outgoing] = []
            for partition, shard in list(self._shards.items()):
                if partition not in self._rebuilding:
                    self._decide(partition, shard, answers, out)
            if answers:  # durable before the log says that those requests have ended: a successor would not answer them
                self._ports.failpoints.reach("dispatcher.before_share")
                await publish_until_done(self._ports.publisher, answers, DISPATCHER)
                self._ports.failpoints.reach("dispatcher.after_share")
            if out:
                self._ports.failpoints.reach("dispatcher.before_dispatch")
                await publish_until_done(self._ports.publisher, out, DISPATCHER)
                self._ports.failpoints.reach("dispatcher.after_dispatch")

    def _decide(self, partition: int, shard: DispatchState, answers: list[Outgoing], out: list[Outgoing]) -> None:
        """Append the final events of what shares an answer to `answers`, everything else to `out`."""
        held, traces = dict(shard.held), dict(shard.traces)  # decide() drops what it ends
        for event in decide(shard, self._ports.clock.now_ms()):
            if isinstance(event, RequestDispatched):
                out += self._dispatched(shard, held[event.request_id], event)
            elif isinstance(event, GenerationMoved):
                self._ports.metrics.moved.labels(event.reason).inc()
                request = held[event.request_id].request
                event_id = named_event_id(event.request_id, "moved", event.epoch)
                headers = self._headers(event, request, event_id, shard.traces.get(event.request_id, ""))
                out.append(Outgoing(topic=LIFECYCLE, key=event.request_id.encode(), event=event, headers=headers))
            elif isinstance(event, GenerationFinished) and event.outcome == "completed":
                answers.append(self._shared(held[event.request_id], event, traces.get(event.request_id, "")))
                out.append(self._finished(partition, held[event.request_id].request, event))
            elif isinstance(event, GenerationFinished):
                out += self._failed(partition, held[event.request_id].request, event)

    def _shared(self, held: Held, event: GenerationFinished, trace: str) -> Outgoing:
        assert held.answer is not None
        request, now = held.request, event.finished_at
        self._ports.metrics.shared.labels(request.model).inc()
        self._ports.metrics.request_seconds.labels("deep-learning").observe(max(0, now - request.requested_at) / 1000)
        final = shared_final(request, held.answer, now)
        trace = self._ports.tracing.hop(DISPATCHER, trace, request.admitted_at, {"shared_with": held.answer.request_id})
        headers = self._headers(final, request, final_event_id(request.tenant, request.request_id), trace)
        key, reply_to = request.request_id.encode(), request.reply_to
        return Outgoing(topic=reply_to.topic, partition=reply_to.partition, key=key, event=final, headers=headers)

    def _finished(self, partition: int, request: DeepLearningRequested, event: GenerationFinished) -> Outgoing:
        headers = self._headers(event, request, named_event_id(request.request_id, "finished", "dispatcher"), "")
        return Outgoing(topic=DL_RESULTS, partition=partition, key=request.model.encode(), event=event, headers=headers)

    def _dispatched(self, shard: DispatchState, held: Held, event: RequestDispatched) -> list[Outgoing]:
        request = held.request
        self._ports.metrics.placed.labels(event.worker).inc()
        self._ports.metrics.wait_seconds.observe(max(0, event.dispatched_at - request.admitted_at) / 1000)
        trace = self._ports.tracing.hop(
            DISPATCHER, shard.traces.get(request.request_id, ""), request.admitted_at, {"worker": event.worker, "reason": event.reason}
        )
        headers = self._headers(event, request, named_event_id(request.request_id, "dispatched", event.epoch), trace)
        key = request.request_id.encode()
        return [
            Outgoing(topic=DL_DISPATCH, partition=event.slot, key=key, event=event, headers=headers),
            Outgoing(topic=LIFECYCLE, key=key, event=replace(event, request=None), headers=headers),
        ]

    def _failed(self, partition: int, request: DeepLearningRequested, event: GenerationFinished) -> list[Outgoing]:
        finished = self._finished(partition, request, event)
        if request.check is not None and request.check.served:  # its client was answered long ago
            return [finished]
        code, reason, remedy = _REMEDIES[event.finish_reason]
        final = InferenceFailed(
            request_id=request.request_id, tenant=request.tenant, code=code, reason=reason, retryable=True, remedy=remedy, stage=DISPATCHER,
            epoch=event.epoch, requested_at=request.requested_at, failed_at=event.finished_at, source=request.source,
        )  # fmt: skip
        final_headers = self._headers(final, request, final_event_id(request.tenant, request.request_id), "")
        key, reply_to = request.request_id.encode(), request.reply_to
        return [
            Outgoing(topic=reply_to.topic, partition=reply_to.partition, key=key, event=final, headers=final_headers),
            finished,
        ]

    def _headers(self, event: Record, request: DeepLearningRequested, event_id: str, trace: str) -> RecordHeaders:
        return RecordHeaders(
            event=type(event).__name__, event_id=event_id, correlation_id=request.request_id, tenant=request.tenant,
            traceparent=trace, deadline_ms=request.deadline_at, reply_to=request.reply_to,
        )  # fmt: skip

    async def listen_forever(self) -> None:
        """Hear heartbeats and results as they come. What was said before this process began is read by the rebuilding."""
        since = self._ports.clock.now_ms() - self._ports.heartbeat_ms
        follower = await self._ports.log.follow([DL_WORKERS, DL_RESULTS], None, since)
        while True:
            try:
                for record in await follower.next(1000):
                    await self._hear(record)
            except RetryableError as error:
                log.warning("listening_waits reason=%s", error)
                await asyncio.sleep(0.5)

    async def _hear(self, record: LogRecord) -> None:
        event = await own_event(self._ports.codec, record)
        if isinstance(event, WorkerReported):
            shard = self._shards.get(partition_for(event.model.encode(), self._ports.shards))
        else:
            shard = self._shards.get(record.partition)
        if event is None or shard is None:
            return
        evolve(shard, event, self._ports.clock.now_ms())
        self._wake.set()
