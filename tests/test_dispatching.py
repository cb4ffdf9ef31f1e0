"""The dispatcher's decisions under a virtual clock: a seeded world of workers that die, restart and lose what they were given."""

from __future__ import annotations

import copy
import heapq
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import (
    DeepLearningRequested,
    GenerationFinished,
    GenerationMoved,
    Parameters,
    Position,
    RequestDispatched,
    RunningRequest,
    WorkerReported,
)
from schemas.record import Record
from streams.dispatching import MISSED_HEARTBEATS, MOST_PLACEMENTS, DispatchState, Held, decide, evolve

START, HEARTBEAT, TICK = 1_000_000, 500, 100
PATIENCE = MISSED_HEARTBEATS * HEARTBEAT
LATEST = 250  # how late the simulated network delivers, repeats included
HERE = Position(topic="t", partition=0, offset=0)


def asked(request_id: str, deadline_at: int = START + 60_000, priority: int = 0, model: str = "m") -> DeepLearningRequested:
    """A request for the dispatcher."""
    return DeepLearningRequested(
        request_id=request_id, tenant="acme", model=model, messages=(), parameters=Parameters(), priority=priority, requested_at=START,
        admitted_at=START, deadline_at=deadline_at, reply_to=HERE, source=HERE,
    )  # fmt: skip


def report(worker: str = "w0", at: int = START, *, running: dict[str, int] | None = None, **changes: Any) -> WorkerReported:
    """A heartbeat; it holds request ids under epochs."""
    held = tuple(RunningRequest(request_id=r, epoch=e) for r, e in (running or {}).items())
    facts = {"slot": 0, "incarnation": 1, "model": "m", "slots": 2, "draining": False, "reported_at": at, **changes}
    return WorkerReported(worker=worker, device="cpu", tokens_in_flight=0, prefill_tokens_per_s=0, service_s=1, running=held, **facts)


def finished(request_id: str, epoch: int, outcome: str = "completed", at: int = START) -> GenerationFinished:
    """A worker's result."""
    return GenerationFinished(
        request_id=request_id, tenant="acme", model="m", worker="w0", epoch=epoch, outcome=outcome, text="", finish_reason="stop",
        prompt_tokens=0, completion_tokens=0, finished_at=at,
    )  # fmt: skip


def fresh(*events: Record, at: int = START, epoch: int = START) -> DispatchState:
    """A dispatcher that knows these events."""
    state = DispatchState("d", epoch, HEARTBEAT)
    for event in events:
        evolve(state, event, at)
    return state


def rank(held: Held) -> tuple[int, int, str]:
    """Place in the queue."""
    return -held.request.priority, held.request.deadline_at, held.request.request_id


@dataclass
class SimulatedWorker:
    """What `agents.deep_learning` does, without an engine."""

    name: str
    slot: int
    model: str
    slots: int
    incarnation: int = START
    draining: bool = False
    dead_since: int | None = None
    newest: int = 0
    running: dict[str, int] = field(default_factory=dict)

    def takes(self, event: RequestDispatched) -> bool:
        """Whether a dispatch that arrives is run."""
        if self.dead_since is not None or event.incarnation != self.incarnation or event.dispatcher_epoch < self.newest:
            return False
        self.newest = event.dispatcher_epoch
        taken = self.running.get(event.request_id, 0) < event.epoch
        if taken:
            self.running[event.request_id] = event.epoch
        return taken


class World:
    """Requests, workers, a network that delays and repeats, a log, and one dispatcher that is restarted from it."""

    def __init__(self, seed: int) -> None:
        self.random, self.now, self.end = Random(seed), START, START + 12_000
        self.queue: list[tuple[int, int, str, Any]] = []
        self.log: list[Record] = []  # what a rebuilding reads: requests, dispatches, results
        self.ended: dict[str, int] = {}
        self.state, self.restarted = fresh(), START
        self.deaths: dict[tuple[str, int], int] = {}
        self.models = ["m", "n"][: self.random.randint(1, 2)]
        self.workers = {f"w{i}": SimulatedWorker(f"w{i}", i, self.random.choice(self.models), self.random.randint(1, 3)) for i in range(4)}
        self.requests = [self._request(i) for i in range(self.random.randint(5, 25))]
        for request in self.requests:
            self.at(self.random.randrange(START, START + 6_000), "ask", request)
        for name in self.workers:
            self.at(START + self.random.randrange(HEARTBEAT), "beat", name)
        for _ in range(self.random.randint(0, 5)):
            self.at(self.random.randrange(START, self.end), "fault", self.random.choice(list(self.workers)))
        for _ in range(self.random.randint(0, 2)):
            self.at(self.random.randrange(START, self.end), "restart", None)

    def _request(self, number: int) -> DeepLearningRequested:
        deadline = START + self.random.randrange(3_000, 11_000)
        return asked(f"r{number:02}", deadline, self.random.randint(0, 2), self.random.choice(self.models))

    def at(self, when: int, kind: str, what: Any) -> None:
        heapq.heappush(self.queue, (when, len(self.log) * 1000 + self.random.randrange(1000) + (when << 20), kind, what))

    def deliver(self, event: Record) -> None:
        """Late by a moment; a second time, later still, now and then."""
        self.at(self.now + self.random.randint(1, 50), "hear", event)
        if self.random.random() < 0.15:
            self.at(self.now + self.random.randint(50, LATEST), "hear", event)

    def run(self) -> None:
        """Until every deadline has passed, a tick at a time."""
        while self.now < self.end:
            while self.queue and self.queue[0][0] <= self.now:
                _, _, kind, what = heapq.heappop(self.queue)
                getattr(self, f"_{kind}")(what)
            self.turn()
            self.now += TICK
        assert not self.state.held, "everything has ended"
        assert set(self.ended) == {r.request_id for r in self.requests}

    def _ask(self, request: DeepLearningRequested) -> None:
        self.log.append(request)
        self.deliver(request)

    def _hear(self, event: Record) -> None:
        evolve(self.state, event, self.now)

    def _beat(self, name: str) -> None:
        w = self.workers[name]
        if w.dead_since is None:
            facts = {"slot": w.slot, "incarnation": w.incarnation, "model": w.model, "slots": w.slots, "draining": w.draining}
            self.deliver(report(name, self.now, running=w.running, **facts))
            self.at(self.now + HEARTBEAT, "beat", name)

    def _fault(self, name: str) -> None:
        w = self.workers[name]
        if w.dead_since is not None:
            w.incarnation, w.dead_since, w.draining = self.now, None, False
            self._beat(name)
        elif self.random.random() < 0.3:
            w.draining = True
        else:
            self.deaths[name, w.incarnation] = w.dead_since = self.now
            w.running = {}

    def _restart(self, _: None) -> None:
        decide(self.state, self.now)  # decided, and never published
        self.state, self.restarted = fresh(*self.log, at=self.now, epoch=self.now), self.now

    def _dispatch(self, event: RequestDispatched) -> None:
        if self.random.random() > 0.05 and self.workers[event.worker].takes(event):
            done = min(self.now + self.random.randrange(50, 3_000), event.request.deadline_at - 50 if event.request else 0)
            self.at(max(done, self.now), "finish", event)

    def _finish(self, event: RequestDispatched) -> None:
        w = self.workers[event.worker]
        if w.incarnation == event.incarnation and w.running.get(event.request_id) == event.epoch:
            del w.running[event.request_id]
            outcome = self.random.choices(["completed", "failed", "returned"], [8, 1, 1])[0]
            self._publish(finished(event.request_id, event.epoch, outcome, self.now))

    def _publish(self, event: GenerationFinished) -> None:
        self.log.append(event)
        self.deliver(event)

    def turn(self) -> None:
        """One decision, and what must be true of it."""
        waiting = {r for r, h in self.state.held.items() if h.worker is None}
        epochs = {r: h.epoch for r, h in self.state.held.items()}
        out = decide(self.state, self.now)
        moved = {e.request_id for e in out if isinstance(e, GenerationMoved)}
        placed = [e for e in out if isinstance(e, RequestDispatched)]
        for event in placed:
            assert event.request_id in waiting | moved, "what is placed was free"
            assert event.epoch == epochs[event.request_id] + 1 <= MOST_PLACEMENTS, "epochs grow one by one"
            assert not [e for e in self.log if isinstance(e, RequestDispatched) and (e.request_id, e.epoch) == (event.request_id, event.epoch)]
            worker = self.state.workers[event.worker]
            assert not worker.report.draining and worker.report.model == event.model and worker.report.incarnation == event.incarnation
            assert self.now - worker.seen_ms <= PATIENCE, "only the living are given something"
            assert self.state.in_flight(event.worker) <= worker.report.slots, "within its credit"
            self.log.append(event)
            self.at(self.now + self.random.randint(1, 50), "dispatch", event)
        self._check_order(placed)
        self._check_the_dead()
        for event in out:
            if isinstance(event, GenerationFinished):
                assert event.finished_at < self.state.done[event.request_id] or event.request_id not in self.free_before, "before its deadline"
                self._publish(event)
        self.free_before = {r for r, h in self.state.held.items() if h.worker is None}

    free_before: set[str] = set()  # noqa: RUF012
