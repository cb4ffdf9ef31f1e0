"""The deep-learning service: claims a worker slot, runs what is dispatched to it in one engine, and streams the tokens to the log.

Its dispatch partition is read by assignment, not by a group: the slot is claimed by an incarnation, and what was dispatched to an
earlier one is void. So there is no offset to commit; whatever a dead worker held is dispatched again under a new epoch.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from agents.generation import Generation
from schemas.codec import Codec, UndecodableRecord
from schemas.events import RequestDispatched, RunningRequest, WorkerReported
from schemas.headers import RecordHeaders
from schemas.ids import named_event_id
from streams.acknowledging import publish_until_done
from streams.engine import GenerationEngine
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.ports import Clock, Log, LogFollower, LogRecord, Outgoing, Publisher
from streams.telemetry import Metrics, Tracing
from streams.topics import DEEP_LEARNING, DL_DISPATCH, DL_WORKERS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepLearningPorts:
    """What a worker needs of the world. `slot` is its partition of the dispatch topic, `worker` its fixed name."""

    worker: str
    slot: int
    engine: GenerationEngine
    publisher: Publisher
    log: Log
    codec: Codec
    clock: Clock
    heartbeat_ms: int
    token_group_ms: int
    metrics: Metrics
    tracing: Tracing
    failpoints: Failpoints


class EngineBroken(Exception):
    """The engine can't go on: the process ends, and what it held is placed elsewhere. Look at the service's log for the cause."""


@dataclass(slots=True)
class _Claim:
    """This process's claim of its slot, and the newest dispatcher that it heard of."""

    incarnation: int
    newest_dispatcher: int = 0
    running: dict[str, tuple[int, asyncio.Task[None]]] = field(default_factory=dict)


def register(app: Any, ports: DeepLearningPorts) -> DeepLearningService:
    """Add the worker's loop; there is no agent: see the module's docstring."""
    service = DeepLearningService(ports)

    @app.task
    async def working() -> None:
        await service.work_forever()

    return service


class DeepLearningService:
    """Takes dispatches, and runs each as a task of its own: the loop never awaits a generation."""

    def __init__(self, ports: DeepLearningPorts) -> None:
        self._ports = ports
        self._claim = _Claim(ports.clock.now_ms())
        self.ready = False

    async def work_forever(self) -> None:
        """Load the engine, claim the slot, then listen and report until cancelled."""
        await self._ports.engine.start()
        # The end of the partition is fixed before the first heartbeat: a dispatch can only follow that.
        follower = await self._ports.log.follow([DL_DISPATCH], [self._ports.slot], "end")
        async with asyncio.TaskGroup() as together:  # if one loop breaks, the service ends and is started anew
            together.create_task(self._report_forever())
            together.create_task(self._listen_forever(follower))
            self.ready = True

    async def _listen_forever(self, follower: LogFollower) -> None:
        while True:
            try:
                for record in await follower.next(1000):
                    self._take(record)
            except RetryableError as error:
                log.warning("dispatches_wait reason=%s", error)
                await asyncio.sleep(0.5)

    def _take(self, record: LogRecord) -> None:
        try:
            event = self._ports.codec.decode(record.value)
        except (UndecodableRecord, OSError) as error:  # only the dispatcher may write here: a bug, not bad input
            log.error("undecodable_dispatch offset=%s reason=%s", record.offset, error)
            return
        if not isinstance(event, RequestDispatched) or event.request is None or event.incarnation != self._claim.incarnation:
            return
        if event.dispatcher_epoch < self._claim.newest_dispatcher:
            log.warning("stale_dispatcher request_id=%s epoch=%s", event.request_id, event.dispatcher_epoch)
            return
        self._claim.newest_dispatcher = event.dispatcher_epoch
        running = self._claim.running.get(event.request_id)
        if running is not None and running[0] >= event.epoch:
            return
        if running is not None:  # placed anew while it still runs here: the older one would only keep a slot
            running[1].cancel()
        self._ports.failpoints.reach("deep-learning.take")
        headers = RecordHeaders.parse(record.headers)
        task = asyncio.create_task(Generation(self._ports, event, headers.traceparent).run())
        self._claim.running[event.request_id] = (event.epoch, task)
        self._ports.metrics.running.set(len(self._claim.running))
        task.add_done_callback(lambda done: self._done(event, done))

    def _done(self, event: RequestDispatched, task: asyncio.Task[None]) -> None:
        if self._claim.running.get(event.request_id, (0, None))[1] is task:
            del self._claim.running[event.request_id]
        self._ports.metrics.running.set(len(self._claim.running))
        if not task.cancelled() and task.exception() is not None:  # the dispatcher sees that it is no longer held, and moves it
            log.error("generation_broke request_id=%s", event.request_id, exc_info=task.exception())

    async def _report_forever(self) -> None:
        while True:
            if trouble := self._ports.engine.capacity().trouble:
                raise EngineBroken(trouble)
            report = self._report()
            now = report.reported_at
            headers = RecordHeaders(event="WorkerReported", event_id=named_event_id(report.worker, report.incarnation, now))
            record = Outgoing(topic=DL_WORKERS, partition=0, key=report.worker.encode(), event=report, headers=headers)
            await publish_until_done(self._ports.publisher, [record], DEEP_LEARNING)
            await asyncio.sleep(self._ports.heartbeat_ms / 1000)

    def _report(self) -> WorkerReported:
        ports, capacity = self._ports, self._ports.engine.capacity()
        return WorkerReported(
            worker=ports.worker, slot=ports.slot, incarnation=self._claim.incarnation, model=ports.engine.model, device=ports.engine.device,
            slots=capacity.slots, tokens_in_flight=capacity.tokens_in_flight, prefill_tokens_per_s=capacity.prefill_tokens_per_s,
            service_s=capacity.service_s, reported_at=ports.clock.now_ms(),
            running=tuple(RunningRequest(request_id=r, epoch=epoch) for r, (epoch, _) in self._claim.running.items()),
        )  # fmt: skip
