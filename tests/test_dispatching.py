"""The dispatcher's decisions under a virtual clock: a seeded world of workers that die, restart and lose what they were given."""

from __future__ import annotations

import copy
import heapq
import itertools
from dataclasses import dataclass, field
from random import Random
from typing import Any

from schemas import events
from schemas.events import DeepLearningRequested, GenerationFinished, GenerationMoved, RequestDispatched, WorkerReported
from schemas.record import Record
from streams.coalescing import FRESH_MS, tokens_of
from streams.dispatch_state import DispatchState, Held, evolve
from streams.dispatching import MISSED_HEARTBEATS, MOST_PLACEMENTS, decide

START, HEARTBEAT, TICK = 1_000_000, 500, 100
PATIENCE = MISSED_HEARTBEATS * HEARTBEAT
LATEST = 250  # how late the simulated network delivers, repeats included
HERE = events.Position(topic="t", partition=0, offset=0)


def asked(
    request_id: str, deadline_at: int = START + 60_000, priority: int = 0, model: str = "m", *, entry: str | None = None, key: str = "",
    at: int = START,
) -> DeepLearningRequested:  # fmt: skip
    """A request for the dispatcher. One with the same entry is identical; one with the same key wants the same answer."""
    return DeepLearningRequested(
        request_id=request_id, tenant="acme", model=model, messages=(), parameters=events.Parameters(), priority=priority,
        requested_at=at, admitted_at=at, deadline_at=deadline_at, reply_to=HERE, source=HERE, entry_id=entry,
        idempotency=events.Idempotency(key=key, body="b") if key else None,
    )  # fmt: skip


def report(worker: str = "w0", at: int = START, *, running: dict[str, int] | None = None, **changes: Any) -> WorkerReported:
    """A heartbeat; it holds request ids under epochs."""
    held = tuple(events.RunningRequest(request_id=r, epoch=e) for r, e in (running or {}).items())
    facts = {"slot": 0, "incarnation": 1, "model": "m", "slots": 2, "draining": False, "reported_at": at, **changes}
    return WorkerReported(worker=worker, device="cpu", tokens_in_flight=0, prefill_tokens_per_s=0, service_s=1, running=held, **facts)


def finished(
    request_id: str, epoch: int, outcome: str = "completed", of: DeepLearningRequested | None = None, at: int = START
) -> GenerationFinished:
    """A worker's result. Its text is another one for each computation."""
    return GenerationFinished(
        request_id=request_id, tenant="acme", model=of.model if of else "m", worker="w0", epoch=epoch, outcome=outcome,
        text=f"{request_id}/{epoch}" if outcome == "completed" else "", finish_reason="stop", prompt_tokens=0, completion_tokens=0,
        finished_at=at, entry_id=of.entry_id if of else None, idempotency=of.idempotency if of else None,
    )  # fmt: skip


def fresh(*folded: Record, at: int = START) -> DispatchState:
    """A dispatcher that begins now and knows these events."""
    state = DispatchState("d", at, HEARTBEAT)
    for event in folded:
        evolve(state, event, at)
    return state


@dataclass
class SimulatedWorker:
    """What `agents.deep_learning` does, without an engine."""

    slot: int
    model: str
    slots: int
    incarnation: int = START
    draining: bool = False
    dead: bool = False
    silent_until: int = 0
    newest_dispatcher: int = 0
    running: dict[str, int] = field(default_factory=dict)

    def takes(self, event: RequestDispatched) -> bool:
        if self.dead or event.incarnation != self.incarnation or event.dispatcher_epoch < self.newest_dispatcher:
            return False
        self.newest_dispatcher = event.dispatcher_epoch
        known = self.running.get(event.request_id, 0)
        self.running[event.request_id] = max(known, event.epoch)
        return event.epoch > known


def in_flight(state: DispatchState, worker: str) -> int:
    """Requests placed on a worker and not finished."""
    return sum(1 for held in state.held.values() if held.worker == worker)


class World:
    """Requests, workers, a network that delays and repeats, a log, and a dispatcher that is restarted from it."""

    def __init__(self, seed: int) -> None:
        self.random, self.now, self.end, self.count = Random(seed), START, START + 14_000, itertools.count()
        self.agenda: list[tuple[int, int, str, Any]] = []
        self.log: list[Record] = []  # what a rebuilding reads: requests, dispatches, results
        self.state, self.restarted = fresh(), START
        self.placed: set[tuple[str, int]] = set()
        self.ended, self.waited = set[str](), set[str]()
        self.requested, self.answers = dict[str, DeepLearningRequested](), dict[str, GenerationFinished]()
        self.deaths: dict[tuple[str, int], int] = {}
        pick, between = self.random.choice, self.random.randrange
        models = ["m", "n"][: between(1, 3)]
        self.workers = {f"w{i}": SimulatedWorker(i, pick(models), between(1, 4)) for i in range(4)}
        self.requests = between(5, 30)
        for number in range(self.requests):
            when = between(START, START + 6_000)
            model = pick(models)
            entry = pick([None, f"{model}1", f"{model}2"])
            key = pick(["", "", f"{entry or model + '1'}k"])
            self.at(when, "publish", asked(f"r{number:02}", when + between(600, 5_000), between(3), model, entry=entry, key=key, at=when))
        for name in self.workers:
            self.at(START + between(HEARTBEAT), "beat", name)
        for kind in ["fault"] * between(6) + ["restart"] * between(3):
            self.at(between(START, START + 12_000), kind, pick(list(self.workers)))

    def at(self, when: int, kind: str, what: Any) -> None:
        heapq.heappush(self.agenda, (when, next(self.count), kind, what))

    def deliver(self, event: Record) -> None:
        # Requests come in the order of their partition, and so do results: what a key is decided by.
        ordered = isinstance(event, DeepLearningRequested | GenerationFinished)
        self.at(self.now + (10 if ordered else self.random.randint(1, 50)), "hear", event)
        if self.random.random() < 0.15:  # and again, later still
            self.at(self.now + self.random.randint(50, LATEST), "hear", event)

    def publish(self, event: Record) -> None:
        self.log.append(event)
        if isinstance(event, DeepLearningRequested):
            self.requested[event.request_id] = event
        if isinstance(event, GenerationFinished) and event.outcome != "returned":
            self.answers.setdefault(event.request_id, event)
        self.deliver(event)

    def run(self) -> None:
        """Until every deadline has passed, a tick at a time."""
        for tick in range(START, self.end, TICK):
            while self.agenda and self.agenda[0][0] <= tick:
                self.now, _, kind, what = heapq.heappop(self.agenda)
                getattr(self, kind)(what)
            self.now = tick
            self.turn()
        assert (len(self.state.held), len(self.ended)) == (0, self.requests), "everything has ended"
        for key in {r.idempotency for r in self.requested.values() if r.idempotency is not None}:
            texts = {a.text for r, a in self.answers.items() if self.requested[r].idempotency == key and a.text}
            assert len(texts) <= 1, "one key, one answer"

    def hear(self, event: Record) -> None:
        if not isinstance(event, RequestDispatched):  # its own decisions are folded when they are made
            evolve(self.state, event, self.now)
        once = copy.deepcopy(self.state)
        evolve(self.state, event, self.now)
        assert once == self.state, "twice is once"
        self.check_ends()

    def beat(self, name: str) -> None:
        w = self.workers[name]
        if not w.dead:
            if self.now >= w.silent_until:
                facts = {fact: getattr(w, fact) for fact in ("slot", "incarnation", "model", "slots", "draining")}
                self.deliver(report(name, self.now, running=w.running, **facts))
            self.at(self.now + HEARTBEAT, "beat", name)

    def fault(self, name: str) -> None:
        """The dead come back, the living drain, hang or die."""
        w, dice = self.workers[name], self.random.random()
        if w.dead:
            w.incarnation, w.dead, w.draining = self.now, False, False
            self.at(self.now, "beat", name)
        elif dice < 0.2:
            w.draining = True
        elif dice < 0.4:
            w.silent_until = self.now + 2 * PATIENCE
        else:
            w.dead, w.running, self.deaths[name, w.incarnation] = True, {}, self.now
            self.at(self.now + self.random.randrange(200, 8_000), "fault", name)

    def restart(self, _: str) -> None:
        decide(self.state, self.now)  # decided, and never published
        self.state, self.restarted, self.waited = fresh(*self.log, at=self.now), self.now, set()
        assert fresh(*self.log, *self.log, at=self.now).held == self.state.held, "twice is once"
        if self.random.random() < 0.5:  # topic after topic, as a rebuilding reads them, and requests meanwhile
            kinds = (DeepLearningRequested, RequestDispatched, GenerationFinished)
            early = [e for e in self.log if isinstance(e, DeepLearningRequested)][self.random.randrange(30) :]
            self.state = fresh(*early, *(e for kind in kinds for e in self.log if isinstance(e, kind)), at=self.now)
        self.check_ends()

    def dispatch(self, event: RequestDispatched) -> None:
        if self.random.random() > 0.05 and self.workers[event.worker].takes(event):
            assert event.request is not None
            self.at(max(self.now, min(self.now + self.random.randrange(50, 3_000), event.request.deadline_at - 50)), "finish", event)

    def finish(self, event: RequestDispatched) -> None:
        w = self.workers[event.worker]
        if w.incarnation == event.incarnation and w.running.get(event.request_id) == event.epoch:
            del w.running[event.request_id]
            outcome = self.random.choices(["completed", "failed", "returned"], [8, 1, 1])[0]
            self.publish(finished(event.request_id, event.epoch, outcome, event.request, self.now))

    def turn(self) -> None:
        held, before = dict(self.state.held), {r: copy.copy(h) for r, h in self.state.held.items()}
        out = decide(self.state, self.now)
        moved = {e.request_id for e in out if isinstance(e, GenerationMoved)}
        for event in out:
            if isinstance(event, RequestDispatched):
                self.check_placement(event, before[event.request_id], moved)
                self.publish(event)
                self.at(self.now + self.random.randint(1, 50), "dispatch", event)
            elif isinstance(event, GenerationFinished) and event.outcome == "completed":
                self.check_sharing(event, held[event.request_id])
                self.publish(event)
            elif isinstance(event, GenerationFinished):
                deadline = before[event.request_id].request.deadline_at
                assert self.now < deadline or event.request_id not in self.waited, "what waits fails before its deadline"
                self.publish(event)
        self.check_queue([self.state.held[e.request_id] for e in out if isinstance(e, RequestDispatched)])
        self.check_groups()
        self.check_ends()
        for held in self.state.held.values():
            dead = self.deaths.get((held.worker or "", held.incarnation))
            assert dead is None or self.now <= max(dead, self.restarted) + LATEST + PATIENCE + TICK, "the dead hold nothing"
        self.waited = {r for r, h in self.state.held.items() if h.worker is None}

    def check_placement(self, event: RequestDispatched, before: Held, moved: set[str]) -> None:
        """It was free, its epoch is new, and the worker is alive, willing and has room."""
        assert before.worker is None or event.request_id in moved
        assert event.epoch == before.epoch + 1 <= MOST_PLACEMENTS
        assert (event.request_id, event.epoch) not in self.placed, "two placements in one epoch"
        self.placed.add((event.request_id, event.epoch))
        worker = self.state.workers[event.worker]
        assert (worker.report.model, worker.report.incarnation, worker.report.slot) == (event.model, event.incarnation, event.slot)
        assert self.now - worker.seen_ms <= PATIENCE and not worker.report.draining
        assert in_flight(self.state, event.worker) <= worker.report.slots, "more than its credit"

    def check_queue(self, placed: list[Held]) -> None:
        """The most urgent of a model came first, and nobody waits while there is room, but for those that just came back."""
        following = self.state.groups.leader_of
        held = [h for r, h in self.state.held.items() if r not in following]
        waiting = [h for h in held if h.worker is None and h.not_before_ms <= self.now]
        for model in {h.request.model for h in waiting + placed}:
            order, left = ([h.rank for h in some if h.request.model == model] for some in (placed, waiting))
            assert order == sorted(order) and all(rank >= last for rank in left for last in order[-1:])
            able = [w for w in self.state.workers.values() if w.report.model == model and self.now - w.seen_ms <= PATIENCE]
            assert not left or all(w.report.draining or in_flight(self.state, w.report.worker) >= w.report.slots for w in able)

    def check_sharing(self, event: GenerationFinished, held: Held) -> None:
        """It shares the answer of an identical request, through others where need be, and never one that was there long before."""
        answer, request = held.answer, held.request
        assert answer is not None and event.text == answer.text == self.answers[answer.request_id].text and event.entry_id is None
        assert request.request_id not in self.answers, "one end"
        assert answer.model == request.model
        assert request.idempotency is not None or request.admitted_at <= answer.finished_at + FRESH_MS

    def check_groups(self) -> None:
        """While one of a group is computed, nobody else of it is; a leader is as urgent as the most urgent that it leads."""
        groups, held = self.state.groups, self.state.held
        assert all(leader in held and leader not in groups.leader_of for leader in groups.leader_of.values())
        leaders = {r: h for r, h in held.items() if r not in groups.leader_of}
        for request_id, one in held.items():
            assert one.answer is None
            led = [held[f].request for f in groups.followers.get(request_id, ())]
            assert request_id in groups.leader_of or one.rank == min((-r.priority, r.deadline_at) for r in (one.request, *led))
        for one, other in itertools.combinations(leaders.values(), 2):
            assert self.restarted > START or not {*tokens_of(one.request)} & {*tokens_of(other.request)}, "twice"

    def check_ends(self) -> None:
        """What has ended stays ended."""
        self.ended |= self.state.done.keys()
        assert not self.ended & self.state.held.keys()


def test_nothing_is_lost_doubled_or_late_in_any_world() -> None:
    """300 worlds: workers die, hang, drain, come back and return work; events come late and twice; the dispatcher is restarted."""
    for seed in range(300):
        World(seed).run()


def test_a_request_that_nobody_can_serve_fails() -> None:
    """It is placed again a heartbeat after it came back; after the fourth time it fails at once, and not at its deadline."""
    state, later = fresh(asked("a"), report()), START + HEARTBEAT
    for epoch in range(1, MOST_PLACEMENTS + 1):
        (event,) = decide(state, START if epoch == 1 else later)
        assert isinstance(event, RequestDispatched) and event.epoch == epoch
        evolve(state, finished("a", epoch, "returned"), START)
        assert epoch == MOST_PLACEMENTS or decide(state, later - 1) == []
    (event,) = decide(state, START)
    assert isinstance(event, GenerationFinished) and event.finish_reason == "error"


def test_an_old_heartbeat_changes_nothing() -> None:
    """One that comes late or again neither raises the dead nor takes back what a newer one said."""
    state = fresh(report(at=START))
    evolve(state, report(at=START + HEARTBEAT, draining=True), START + HEARTBEAT)
    evolve(state, report(at=START), START + 60_000)
    evolve(state, asked("a", START + 99_000), START + 60_000)
    assert decide(state, START + 60_000) == []
    assert state.workers["w0"].report.draining


def test_a_repeat_after_the_deadline_is_not_a_new_request() -> None:
    """A record that is read again much later, as after a crash before its commit, must not end a second time."""
    state = fresh(asked("a", START + 1_000), finished("a", 1))
    decide(state, START + 1_001)
    evolve(state, asked("a", START + 1_000), START + 1_002)
    assert decide(state, START + 1_003) == []
