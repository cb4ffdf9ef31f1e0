"""Agents that race for an idempotency key over one log in memory: who waits, who answers, and who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agents.idempotency import KeyedRequest, KeyPorts, KeyService
from schemas.codec import Codec
from schemas.events import DeepLearningRequested, Idempotency, InferenceCompleted, InferenceRejected, Position
from schemas.headers import RecordHeaders
from schemas.record import Record
from streams.admission import Admitted, RequestRefused
from streams.failpoints import Failpoints
from streams.idempotency import computed_answer
from streams.ports import LogRecord, Outgoing, Start, SystemClock
from streams.topics import IDEMPOTENCY
from tests.test_dispatching import asked as computation
from tests.test_dispatching import finished
from tests.test_idempotency import ASKED, HERE, REQUEST
from tests.test_schemas import MemoryRegistry


class MemoryLog:
    """One partition, as Publisher, Log and LogFollower. Whoever reads sees what was published before."""

    def __init__(self) -> None:
        self.codec = Codec(MemoryRegistry())
        self.records: list[LogRecord] = []
        self.published: list[Record] = []

    def publish(self, records: Sequence[Outgoing]) -> asyncio.Future[None]:
        for record in records:
            self.published.append(record.event)
            value = self.codec.encode(record.topic, record.event)
            offset = len(self.records)
            read = LogRecord(topic=record.topic, partition=0, offset=offset, timestamp_ms=0, key=record.key, value=value, headers=())
            self.records.append(read)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def follow(self, topics: Sequence[str], partitions: Collection[int] | None = None, since: Start = "end") -> MemoryFollower:
        assert (list(topics), partitions) == ([IDEMPOTENCY], None) and isinstance(since, int)
        return MemoryFollower(self)

    async def read(self, topic: str, partitions: Collection[int] | None, since_ms: int) -> list[LogRecord]:
        raise AssertionError(f"nobody reads {topic} {partitions} {since_ms}")


class MemoryFollower:
    """Reads one record at a time."""

    def __init__(self, log: MemoryLog) -> None:
        self._log, self._next = log, 0

    async def next(self, wait_ms: int) -> list[LogRecord]:
        await asyncio.sleep(min(0.001, wait_ms))
        self._next += 1
        return self._log.records[self._next - 1 : self._next]

    def caught_up(self) -> bool:
        self._next = min(self._next, len(self._log.records))
        return self._next == len(self._log.records)

    async def close(self) -> None: ...


class Agents:
    """Some agents over one log, each with a loop that follows it."""

    def __init__(self, count: int) -> None:
        self.log = MemoryLog()
        ports = KeyPorts(
            publisher=self.log, log=self.log, codec=self.log.codec, clock=SystemClock(), failpoints=Failpoints("", Path()),
            max_deadline_ms=60_000,
        )  # fmt: skip
        self._ports = ports
        self.services: list[KeyService] = []
        self.following: list[asyncio.Task[None]] = []
        for _ in range(count):
            self.begin()

    def begin(self) -> None:
        """One more agent, which knows nothing yet."""
        self.services.append(KeyService(self._ports))
        self.following.append(asyncio.create_task(self.services[-1].follow_forever()))

    async def settle(self, agent: int, request_id: str, known: str = "", body: str = "b", task: str = "generate") -> str:
        """What became of a request: a text, its tier before it, or where it went. A known answer comes with the order to check it."""
        asked = Idempotency(key=ASKED.key, body=body)
        now = SystemClock().now_ms()
        admitted = Admitted(
            request=replace(REQUEST, request_id=request_id, task=task), deadline_ms=now + 60_000, reply_to=HERE, cacheable=True,
            known_allowed=True,
        )  # fmt: skip

        def outgoing(event: Record) -> Outgoing:
            return Outgoing(topic="t", key=b"k", event=event, headers=RecordHeaders())

        def passed_on(_reason: str) -> list[Outgoing]:
            return [outgoing(computation(request_id))]

        async def by_tiers() -> list[Outgoing]:
            check = outgoing(computation(f"check of {request_id}"))
            return [outgoing(_final(request_id, known, now)), check] if known else [outgoing(computation(request_id, model="by tiers"))]

        request = KeyedRequest(
            asked=asked, admitted=admitted, source=Position(topic="t", partition=0, offset=1), by_tiers=by_tiers, pass_on=passed_on,
            reply=outgoing,
        )  # fmt: skip
        async with asyncio.timeout(5):
            out = (await self.services[agent].settle(request))[0]
        if isinstance(out.event, InferenceCompleted):
            return f"{out.event.tier} {out.event.text} {out.event.shared_with or ''}".strip()
        assert isinstance(out.event, DeepLearningRequested)
        return "passed on" if out.event.model == "m" else "by tiers"

    async def computes(self, request_id: str) -> None:
        """The deep-learning service answers, and the learning service says so."""
        answer = computed_answer(finished(request_id, 1, of=computation(request_id, key=ASKED.key), at=SystemClock().now_ms()))
        assert answer is not None
        await self.log.publish([Outgoing(topic="t", key=b"k", event=answer, headers=RecordHeaders())])
        await asyncio.sleep(0.05)

    def end(self) -> None:
        for task in self.following:
            task.cancel()


def _final(request_id: str, text: str, now: int) -> InferenceCompleted:
    return InferenceCompleted(
        request_id=request_id, tenant="acme", model="m", tier="exact", reason="", text=text, finish_reason="stop", prompt_tokens=0,
        completion_tokens=0, requested_at=now, admitted_at=now, completed_at=now, source=HERE,
    )  # fmt: skip


def run(scenario: Any) -> None:
    """Run a scenario with two agents."""

    async def whole() -> None:
        agents = Agents(2)
        try:
            await scenario(agents)
        finally:
            agents.end()

    asyncio.run(whole())


def test_whoever_comes_while_a_key_is_computed_follows_and_later_ones_get_the_response() -> None:
    """At both agents, and after one of them has begun anew."""

    async def scenario(agents: Agents) -> None:
        assert await asyncio.gather(agents.settle(0, "r1"), agents.settle(1, "r2"), agents.settle(0, "r3")) == ["by tiers"] * 3
        assert await agents.settle(1, "r1") == await agents.settle(1, "r5", known="known") == "passed on"
        await agents.computes("r1")
        assert await agents.settle(1, "r4", known="another") == "idempotency r1/1 r1"
        agents.begin()
        assert await agents.settle(2, "r1") == "idempotency r1/1", "it was its own"

    run(scenario)


def test_a_known_answer_is_given_only_where_it_was_first() -> None:
    """Of two at once, one knows and the other does not: both get what the first on the log says."""

    async def scenario(agents: Agents) -> None:
        told = await asyncio.gather(agents.settle(0, "r1", known="known"), agents.settle(1, "r2"))
        assert told == ["exact known", "idempotency known r1"]
        assert await agents.settle(1, "r3") == "idempotency known r1"

    async def other_way(agents: Agents) -> None:
        assert await asyncio.gather(agents.settle(0, "r2"), agents.settle(1, "r1", known="known")) == ["by tiers", "passed on"]

    run(scenario)
    run(other_way)


def test_the_language_model_is_asked_as_a_small_one_guesses() -> None:
    """A request for a label that attaches to a key goes by its tiers, which know how to ask."""

    async def scenario(agents: Agents) -> None:
        assert [await agents.settle(n, f"r{n}", task="classify") for n in (0, 1)] == ["by tiers"] * 2

    run(scenario)


def test_another_body_is_refused_by_every_agent() -> None:
    """With what to do; and a refusal takes no key."""

    async def scenario(agents: Agents) -> None:
        await agents.settle(0, "r1")
        for agent in (0, 1):
            with pytest.raises(RequestRefused, match="another request") as refused:
                await agents.settle(agent, "r2", body="c")
            assert (refused.value.code, refused.value.retryable) == ("idempotency_conflict", False)
            assert "new key" in refused.value.remedy
        assert not any(isinstance(event, InferenceRejected) for event in agents.log.published)
        assert [type(event).__name__ for event in agents.log.published].count("IdempotencyKeyClaimed") <= 2

    run(scenario)
