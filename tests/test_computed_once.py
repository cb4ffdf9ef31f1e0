"""The services themselves over a log in memory: agents and dispatchers begin anew at any time, and nothing is computed twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agents.dispatcher import DispatcherPorts, DispatcherService
from agents.inference import InferencePorts, InferenceService
from agents.small_models import SmallModelTier
from schemas.events import (
    DeepLearningRequested,
    Final,
    GenerationFinished,
    InferenceCompleted,
    InferenceRejected,
    InferenceRequested,
    Message,
    Parameters,
    Position,
    RequestDispatched,
    RunningRequest,
    WorkerReported,
)
from schemas.headers import RecordHeaders
from schemas.ids import uuid7
from schemas.record import Record
from streams import coalescing
from streams.admission import AdmissionLimits
from streams.failpoints import Failpoints
from streams.idempotency import computed_answer
from streams.ports import Outgoing, SystemClock
from streams.routing import EntryIds, partition_for
from streams.telemetry import Metrics, Tracing
from streams.topics import DL_DISPATCH, DL_REQUESTS, DL_RESULTS, DL_WORKERS, FINALS, IDEMPOTENCY, REQUESTS, RESPONSES
from tests.memory_broker import PARTITIONS, MemoryBroker

CLOCK = SystemClock()
HERE = Position(topic=RESPONSES, partition=0, offset=-1)
SHARD = partition_for(b"m", PARTITIONS)
LIMITS = AdmissionLimits(
    models={"m"}, default_model="m", tenants={"acme"}, partitions=PARTITIONS, max_request_bytes=10_000, max_tokens_limit=512,
    default_max_tokens=8, default_deadline_ms=30_000, max_deadline_ms=60_000, known_max_temperature=0.0,
)  # fmt: skip


class NothingKnown:
    """A store of known answers that is always empty, so that what is answered is what was shared."""

    async def get_many(self, entry_ids: Sequence[str]) -> Mapping[str, bytes]:
        return dict.fromkeys(entry_ids[:0], b"")


class World:
    """Two inference agents, a dispatcher, and a worker that takes its time."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.broker = MemoryBroker(self.random)
        self.computed: list[str] = []
        self.tasks: dict[str, list[asyncio.Task[None]]] = {}

    def begin(self, name: str, *loops: Coroutine[Any, Any, None]) -> None:
        """Start a service, ending the one that had its name as kill -9 does: between any two steps."""
        for task in self.tasks.get(name, ()):
            task.cancel()
        self.tasks[name] = [asyncio.create_task(loop) for loop in loops]

    def common(self) -> dict[str, Any]:
        facts = {"metrics": Metrics(CollectorRegistry()), "tracing": Tracing("test"), "failpoints": Failpoints("", Path())}
        return {"source": self.broker, "publisher": self.broker, "log": self.broker, "codec": self.broker.codec, "clock": CLOCK, **facts}

    def begin_inference(self, index: int) -> None:
        ports = InferencePorts(
            answers=NothingKnown(), entry_ids=EntryIds("a secret", {}), semantic=None, knowledge=None, semantic_max_temperature=0.0,
            small_models=SmallModelTier({}, {}, {}), limits=LIMITS, **self.common(),
        )  # fmt: skip
        service = InferenceService(ports)
        mine = {index, index + 2}
        self.begin(f"inference-{index}", service.keys.follow_forever(), self.broker.pump(REQUESTS, mine, service.handle))

    def begin_dispatcher(self) -> None:
        ports = DispatcherPorts(instance="d", shards=PARTITIONS, heartbeat_ms=200, max_deadline_ms=60_000, **self.common())
        service = DispatcherService(ports)
        self.begin("dispatcher", self.broker.pump(DL_REQUESTS, {SHARD}, service.queue), service.place_forever(), service.listen_forever())
        service.own({SHARD})

    async def say(self, topic: str, event: Record, partition: int | None = None, **headers: Any) -> None:
        told = RecordHeaders(event=type(event).__name__, tenant="acme", **headers)
        await self.broker.publish([Outgoing(topic=topic, partition=partition, key=b"m", event=event, headers=told)])

    async def work_forever(self) -> None:
        """A worker with four slots, and the learning service's part for keys."""
        began, beat, running = CLOCK.now_ms(), 0, dict[str, int]()
        follower = await self.broker.follow([DL_DISPATCH], None, 0)
        while True:
            if CLOCK.now_ms() > beat:
                beat = CLOCK.now_ms() + 200
                held = tuple(RunningRequest(request_id=r, epoch=e) for r, e in running.items())
                report = WorkerReported(
                    worker="w", slot=0, incarnation=began, model="m", device="cpu", slots=4, tokens_in_flight=0, prefill_tokens_per_s=0,
                    service_s=1, running=held, reported_at=CLOCK.now_ms(),
                )  # fmt: skip
                await self.say(DL_WORKERS, report, 0)
            for record in await follower.next(20):
                dispatch = self.broker.codec.decode(record.value)
                assert isinstance(dispatch, RequestDispatched) and dispatch.request is not None
                if running.get(dispatch.request_id, 0) < dispatch.epoch:
                    running[dispatch.request_id] = dispatch.epoch
                    self.tasks["work"].append(asyncio.create_task(self.generate(dispatch.request, dispatch.epoch, running)))

    async def generate(self, r: DeepLearningRequested, epoch: int, running: dict[str, int]) -> None:
        self.computed.append(r.request_id)
        await asyncio.sleep(self.random.random() * 0.2)
        text, now = f"computed for {r.request_id}", CLOCK.now_ms()
        final = InferenceCompleted(
            request_id=r.request_id, tenant=r.tenant, model=r.model, tier="deep-learning", reason="", text=text, finish_reason="stop",
            prompt_tokens=1, completion_tokens=1, requested_at=r.requested_at, admitted_at=r.admitted_at, completed_at=now, source=r.source,
        )  # fmt: skip
        result = GenerationFinished(
            request_id=r.request_id, tenant=r.tenant, model=r.model, worker="w", epoch=epoch, outcome="completed", text=text,
            finish_reason="stop", prompt_tokens=1, completion_tokens=1, entry_id=r.entry_id, finished_at=now, idempotency=r.idempotency,
        )  # fmt: skip
        await self.say(r.reply_to.topic, final, r.reply_to.partition)
        await self.say(DL_RESULTS, result)
        answered = computed_answer(result)
        if answered is not None:
            await self.broker.publish([Outgoing(topic=IDEMPOTENCY, key=answered.key.encode(), event=answered, headers=RecordHeaders())])
        del running[r.request_id]

    async def ask(self, prompt: str, key: str | None, temperature: float) -> str:
        request = InferenceRequested(
            request_id=uuid7(), tenant="acme", model="m", messages=(Message(role="user", content=prompt),), requested_at=CLOCK.now_ms(),
            parameters=Parameters(max_tokens=4, temperature=temperature), idempotency_key=key,
        )  # fmt: skip
        where = self.random.randrange(PARTITIONS)
        await self.say(REQUESTS, request, where, correlation_id=request.request_id, reply_to=HERE)
        return request.request_id

    async def finals(self, count: int) -> dict[str, Final]:
        """The first final event of each request, as a reader has them."""
        async with asyncio.timeout(20):
            while True:
                found: dict[str, Final] = {}
                for event in self.broker.events(RESPONSES):
                    assert isinstance(event, FINALS)
                    found.setdefault(event.request_id, event)
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.05)

    def end(self) -> None:
        for tasks in self.tasks.values():
            for task in tasks:
                assert not task.done() or task.cancelled() or task.exception() is None, task
                task.cancel()


async def live(seed: int) -> None:
    """Sampled with a key, and plain; while they come, agents and the dispatcher begin anew three times."""
    world, groups = World(seed), {name: [] for name in ("key", "key 2", "plain", "plain 2")}
    world.begin_inference(0)
    world.begin_inference(1)
    world.begin_dispatcher()
    world.begin("work", world.work_forever())
    for turn in range(12):
        for name, ids in groups.items():
            keyed = name.startswith("key")
            ids.append(await world.ask(name, name if keyed else None, 1.0 if keyed else 0.0))
        await asyncio.sleep(world.random.random() * 0.04)
        if turn in (3, 6, 9):
            world.random.choice([world.begin_dispatcher, lambda: world.begin_inference(0), lambda: world.begin_inference(1)])()
    refused = await world.ask("another", "key", 1.0)
    finals = await world.finals(12 * len(groups) + 1)
    world.end()
    last = finals[refused]
    assert isinstance(last, InferenceRejected) and last.code == "idempotency_conflict"
    for ids in groups.values():
        told = [finals[request_id] for request_id in ids]
        assert len({final.text for final in told if isinstance(final, InferenceCompleted)}) == 1
        assert all(isinstance(final, InferenceCompleted) for final in told)
        assert sum(request_id in ids for request_id in world.computed) == 1


@pytest.mark.parametrize("seed", range(4))
def test_services_that_begin_anew_compute_nothing_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group of requests has one text and one computation. An answer stays fresh for longer here, since a machine may be busy."""
    monkeypatch.setattr(coalescing, "FRESH_MS", 60_000)
    asyncio.run(live(seed))
