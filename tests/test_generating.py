"""A placement on a worker without a worker: what is published, and what is not where the client was answered long ago."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from agents.deep_learning import DeepLearningPorts
from agents.dispatcher import DispatcherPorts, DispatcherService
from agents.generation import Generation
from schemas.events import (
    DeepLearningRequested,
    GenerationFinished,
    Guess,
    Idempotency,
    InferenceCompleted,
    InferenceFailed,
    Message,
    Parameters,
    Position,
    RequestDispatched,
    SemanticCheck,
)
from schemas.ids import uuid7
from schemas.knowledge import Question
from schemas.record import Record
from streams.dispatching import DispatchState, evolve
from streams.engine import EngineCapacity, GeneratedChunk, GenerationRequest
from streams.errors import PoisonError
from streams.failpoints import Failpoints
from streams.ports import Outgoing, SystemClock
from streams.telemetry import Metrics, Tracing
from streams.topics import DEEP_LEARNING, DISPATCHER

NOW = SystemClock().now_ms()
HERE = Position(topic="inference.responses", partition=1, offset=-1)
ASKED = DeepLearningRequested(
    request_id=uuid7(NOW), tenant="acme", model="m", messages=(Message(role="user", content="Which?"),),
    parameters=Parameters(max_tokens=9, seed=1, labels=("yes", "no")), requested_at=NOW, admitted_at=NOW, deadline_at=NOW + 60_000,
    reply_to=HERE, source=HERE, task="classify", entry_id="e",
    question=Question(scope="s", text="Which?", embedding_version="v", vector=b"12"),
    guess=Guess(classifier="intents", text="Which?", label="yes", confidence=0.4), idempotency=Idempotency(key="k", body="b"),
)  # fmt: skip
CHECK = SemanticCheck(entry_id="e", similarity=0.9, score=0.8, served=True, known_text="yes", request_id=uuid7(NOW))


class SayingYes:
    """An engine of one answer, or of one error."""

    model, device = "m", "cpu"

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[GenerationRequest] = []
        self._error = error

    async def start(self) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    def capacity(self) -> EngineCapacity:
        return EngineCapacity(1, 0, 0, 1.0, 1.0)

    async def close(self) -> None: ...
    async def generate(self, request: GenerationRequest) -> AsyncIterator[GeneratedChunk]:
        self.asked.append(request)
        if self._error is not None:
            raise self._error
        yield GeneratedChunk(0, (7,), "yes", 3, 1, "stop")


class Published:
    """A publisher that keeps what it was given."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []

    async def publish(self, records: Sequence[Outgoing]) -> None:
        self.records += records

    @property
    def events(self) -> list[Record]:
        return [record.event for record in self.records]


async def run(request: DeepLearningRequested, engine: SayingYes) -> Published:
    """Generate one dispatched request to its end."""
    published = Published()
    unused: Any = None
    ports = DeepLearningPorts(
        worker="w", slot=0, engine=engine, publisher=published, log=unused, codec=unused, clock=SystemClock(), heartbeat_ms=1000,
        token_group_ms=0, metrics=Metrics(CollectorRegistry()), tracing=Tracing(DEEP_LEARNING), failpoints=Failpoints("", Path()),
    )  # fmt: skip
    dispatch = RequestDispatched(
        request_id=request.request_id, model="m", worker="w", slot=0, incarnation=1, epoch=1, dispatcher_epoch=1, reason="free",
        dispatched_at=NOW, request=request,
    )  # fmt: skip
    await Generation(ports, dispatch, "").run()
    return published


async def test_labels_go_to_the_engine_and_the_ways_facts_to_the_result() -> None:
    """What the request carries for later steps is in GenerationFinished, word for word."""
    engine = SayingYes()
    request = replace(ASKED, check=replace(CHECK, served=False))
    events = (await run(request, engine)).events
    assert engine.asked[0].labels == ("yes", "no")
    assert [type(event).__name__ for event in events] == [
        "GenerationStarted", "TokensGenerated", "InferenceCompleted", "GenerationFinished",
    ]  # fmt: skip
    final, finished = events[2], events[3]
    assert isinstance(final, InferenceCompleted) and isinstance(finished, GenerationFinished)
    assert (final.tier, final.text) == ("deep-learning", "yes")
    copied = ("task", "question", "check", "guess", "idempotency")
    assert [getattr(finished, name) for name in copied] == [getattr(request, name) for name in copied]


async def test_a_check_of_a_served_answer_tells_the_client_nothing() -> None:
    """Neither when it succeeds nor when it fails: the request that it checks has its final event."""
    checked = replace(ASKED, check=CHECK)
    for engine in (SayingYes(), SayingYes(PoisonError("bad", "no", "mend it"))):
        events = (await run(checked, engine)).events
        assert [type(event) for event in events] == [GenerationFinished]
        assert isinstance(events[0], GenerationFinished) and events[0].check == CHECK


async def test_the_dispatcher_is_silent_too() -> None:
    """When it gives a check up, its result alone is published, with all that the check carries; any other request fails aloud."""
    unused: Any = None
    service = DispatcherService(
        DispatcherPorts(
            instance="d", shards=1, source=unused, publisher=Published(), log=unused, codec=unused, clock=SystemClock(), heartbeat_ms=1000,
            max_deadline_ms=600_000, metrics=Metrics(CollectorRegistry()), tracing=Tracing(DISPATCHER), failpoints=Failpoints("", Path()),
        )
    )  # fmt: skip
    for request, told in ((replace(ASKED, check=CHECK), [GenerationFinished]), (ASKED, [InferenceFailed, GenerationFinished])):
        shard = DispatchState("d", NOW, 1000)
        evolve(shard, replace(request, deadline_at=NOW + 1), NOW)
        records: list[Outgoing] = []
        service._decide(0, shard, [], records)
        assert [type(record.event) for record in records] == told
        finished = records[-1].event
        assert isinstance(finished, GenerationFinished)
        assert (finished.task, finished.check, finished.guess) == (request.task, request.check, request.guess)


async def test_a_failure_of_anything_else_is_told() -> None:
    """With its own final event."""
    events = (await run(ASKED, SayingYes(PoisonError("bad", "no", "mend it")))).events
    assert [type(event) for event in events] == [InferenceFailed, GenerationFinished]
