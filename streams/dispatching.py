"""The dispatcher's decisions. Pure: `evolve` folds events into the state, `decide` says what happens next.

The state can be folded anew from the log at any time: folding an event twice, or late, changes nothing. Of identical requests one is
placed, and the others follow it (streams.coalescing).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.events import DeepLearningRequested, GenerationFinished, GenerationMoved, RequestDispatched, WorkerReported
from schemas.record import Record
from streams.coalescing import Groups, RecentAnswers, shared_end, tokens_of

MISSED_HEARTBEATS = 3
MOST_PLACEMENTS = 4  # a request that four workers could not serve will not be served by a fifth
_REMEMBERED_MS = 600_000  # how long beyond its deadline a finished request is known again when its record comes once more
_FAIL_EARLY_MS = 300  # so that the failure is on the log before the deadline


@dataclass(slots=True)
class Held:
    """A request that the dispatcher is responsible for. `epoch` counts its placements; `worker` is None while it waits."""

    request: DeepLearningRequested
    epoch: int = 0
    worker: str | None = None
    incarnation: int = 0
    placed_ms: int = 0
    not_before_ms: int = 0  # a request that came back is not placed again at once: the worker would only return it again
    rank: tuple[int, int] = (0, 0)  # (-priority, deadline) of the most urgent of those that its computation is for
    answer: GenerationFinished | None = None  # of an identical request, to be answered with


@dataclass(slots=True)
class Worker:
    """A worker as its last heartbeat showed it. `seen_ms` is on the dispatcher's clock."""

    report: WorkerReported
    seen_ms: int


@dataclass(slots=True)
class DispatchState:
    """What one dispatch shard holds: one partition of the deep-learning requests, and the workers of its models."""

    dispatcher: str
    dispatcher_epoch: int
    heartbeat_ms: int
    held: dict[str, Held] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)  # request id -> when it may be forgotten
    traces: dict[str, str] = field(default_factory=dict)  # request id -> W3C trace context; observability, not state
    order: list[tuple[int, int, str]] = field(default_factory=list)  # heap of (*rank, request id), lazily cleaned
    groups: Groups = field(default_factory=Groups)
    recent: RecentAnswers = field(default_factory=RecentAnswers)
    answered: dict[str, None] = field(default_factory=dict)  # held requests that share an answer, and have not been told so

    def waiting(self, model: str) -> int:
        """Requests that wait for a worker of that model, without those that follow another."""
        following = self.groups.leader_of
        return sum(1 for r, h in self.held.items() if h.worker is None and h.request.model == model and r not in following)



def evolve(state: DispatchState, event: Record, now_ms: int) -> None:
    """Fold one event into the state."""
    if isinstance(event, DeepLearningRequested):
        if event.request_id not in state.held and event.request_id not in state.done:
            state.held[event.request_id] = Held(event, rank=_own_rank(event))
            _enter(state, state.held[event.request_id])
    elif isinstance(event, RequestDispatched):
        held = state.held.get(event.request_id)
        if held is not None and event.epoch > held.epoch:
            held.epoch, held.worker, held.incarnation, held.placed_ms = event.epoch, event.worker, event.incarnation, event.dispatched_at
            _lead(state, held)
    elif isinstance(event, GenerationMoved):
        held = state.held.get(event.request_id)
        if held is not None and held.worker is not None and event.epoch == held.epoch:
            held.worker = None
            _enqueue(state, held)
    elif isinstance(event, GenerationFinished):
        _finish(state, event)
    elif isinstance(event, WorkerReported):
        known = state.workers.get(event.worker)
        # By the worker's own order: a heartbeat that comes late must not raise the dead.
        if known is None or (event.incarnation, event.reported_at) > (known.report.incarnation, known.report.reported_at):
            state.workers[event.worker] = Worker(event, now_ms)


def decide(state: DispatchState, now_ms: int) -> list[Record]:
    """What happens now: lost placements move, answers are shared, hopeless requests fail, others are placed while there is credit.

    The events are folded into the state already; the caller publishes them. GenerationFinished here means that the dispatcher gave up
    (failed), or that a request shares another's answer (completed).
    """
    for request_id in [r for r, deadline in state.done.items() if deadline < now_ms]:
        del state.done[request_id]
    state.recent.forget(now_ms)
    moved = [_moved(held, reason, now_ms) for held in state.held.values() if (reason := _lost(state, held, now_ms))]
    free = {m.request_id for m in moved}
    failed: list[GenerationFinished] = []
    for held in state.held.values():
        if held.answer is None and (held.worker is None or held.request.request_id in free) and (finish := _hopeless(held, now_ms)):
            failed.append(_given_up(held, finish, now_ms))
    out: list[Record] = [*moved, *failed]
    for event in out:
        evolve(state, event, now_ms)
    while state.answered:
        answered = state.held[next(iter(state.answered))]
        assert answered.answer is not None
        end = shared_end(answered.request, answered.answer, now_ms)
        evolve(state, end, now_ms)  # and by its key others may be answered
        out.append(end)
    out += _place(state, now_ms)
    return out


def _place(state: DispatchState, now_ms: int) -> list[Record]:
    """Place in order of priority, then deadline; a request whose model has no credit doesn't hold up another model's."""
    placed: list[Record] = []
    skipped: list[tuple[int, int, str]] = []
    load: dict[str, int] = {}
    for held in state.held.values():
        if held.worker is not None:
            load[held.worker] = load.get(held.worker, 0) + 1
    roomy = {w.report.model for w in state.workers.values() if _choose(state, w.report.model, load, now_ms) is not None}
    while state.order and roomy:  # with no room anywhere, which is how an overload looks, the queue is not touched
        entry = heapq.heappop(state.order)
        waiting = state.held.get(entry[2])
        if waiting is None or waiting.worker is not None or waiting.rank != entry[:2]:
            continue
        if entry[2] in state.groups.leader_of:
            continue
        model = waiting.request.model
        worker = _choose(state, model, load, now_ms) if model in roomy and waiting.not_before_ms <= now_ms else None
        if worker is None:
            if waiting.not_before_ms <= now_ms:
                roomy.discard(model)
            skipped.append(entry)
            continue
        event = _dispatched(state, waiting, worker, load.get(worker.report.worker, 0), now_ms)
        load[event.worker] = load.get(event.worker, 0) + 1
        evolve(state, event, now_ms)
        placed.append(event)
    for entry in skipped:
        heapq.heappush(state.order, entry)
    return placed


def _choose(state: DispatchState, model: str, load: dict[str, int], now_ms: int) -> Worker | None:
    """The live worker of that model with credit and the fewest requests in flight."""
    able = [
        w for w in state.workers.values()
        if w.report.model == model and not w.report.draining and _alive(state, w, now_ms) and load.get(w.report.worker, 0) < w.report.slots
    ]  # fmt: skip
    return min(able, key=lambda w: (load.get(w.report.worker, 0), w.report.worker), default=None)


def _dispatched(state: DispatchState, held: Held, worker: Worker, load: int, now_ms: int) -> RequestDispatched:
    report = worker.report
    # Within its credit a request joins the running batch, so what it waits for is its prefill alone.
    wait = report.tokens_in_flight / report.prefill_tokens_per_s * 1000 if report.prefill_tokens_per_s > 0 else None
    reason = f"fewest in flight ({load} of {report.slots}) among the live workers of {report.model}"
    return RequestDispatched(
        request_id=held.request.request_id, model=report.model, worker=report.worker, slot=report.slot, incarnation=report.incarnation,
        epoch=held.epoch + 1, dispatcher_epoch=state.dispatcher_epoch, predicted_wait_ms=wait, reason=reason,
        dispatched_at=now_ms, request=held.request,
    )  # fmt: skip


def _alive(state: DispatchState, worker: Worker, now_ms: int) -> bool:
    return now_ms - worker.seen_ms <= MISSED_HEARTBEATS * state.heartbeat_ms


def _lost(state: DispatchState, held: Held, now_ms: int) -> str:
    """Why a placement is lost, or "" where it is not."""
    if held.worker is None:
        return ""
    patience_ms = MISSED_HEARTBEATS * state.heartbeat_ms
    worker = state.workers.get(held.worker)
    if worker is None:  # not heard of since this dispatcher took over
        return "its worker is gone" if now_ms - max(held.placed_ms, state.dispatcher_epoch) > patience_ms else ""
    if worker.report.incarnation != held.incarnation:
        return "its worker restarted"
    if not _alive(state, worker, now_ms):
        return f"its worker missed {MISSED_HEARTBEATS} heartbeats"
    holds = any(r.request_id == held.request.request_id and r.epoch == held.epoch for r in worker.report.running)
    # Long enough for the dispatch to reach the worker, and for a finished one's result to reach us.
    return "its worker does not hold it" if not holds and worker.seen_ms - held.placed_ms > patience_ms else ""


def _hopeless(held: Held, now_ms: int) -> str:
    if held.request.deadline_at <= now_ms + _FAIL_EARLY_MS:
        return "deadline"
    return "error" if held.epoch >= MOST_PLACEMENTS else ""


def _given_up(held: Held, finish: str, now_ms: int) -> GenerationFinished:
    return GenerationFinished(
        request_id=held.request.request_id, tenant=held.request.tenant, model=held.request.model, worker="", epoch=held.epoch,
        outcome="failed", text="", finish_reason=finish, prompt_tokens=0, completion_tokens=0, entry_id=None, finished_at=now_ms,
        task=held.request.task, question=held.request.question, check=held.request.check, guess=held.request.guess,
        idempotency=held.request.idempotency,
    )  # fmt: skip


def _moved(held: Held, reason: str, now_ms: int) -> GenerationMoved:
    assert held.worker is not None
    return GenerationMoved(request_id=held.request.request_id, worker=held.worker, epoch=held.epoch, reason=reason, moved_at=now_ms)


def _finish(state: DispatchState, event: GenerationFinished) -> None:
    request_id = event.request_id
    held = state.held.get(request_id)
    if event.outcome == "returned":
        if held is not None and held.worker is not None and event.epoch == held.epoch:
            held.worker, held.not_before_ms = None, event.finished_at + state.heartbeat_ms
            _enqueue(state, held)
        return
    if request_id in state.done:
        return
    # It may be heard before its request, as can be while a state is rebuilt.
    state.done[request_id] = (event.finished_at if held is None else held.request.deadline_at) + _REMEMBERED_MS
    state.traces.pop(request_id, None)
    tokens = tokens_of(event)
    free: list[str] = []  # those that followed it
    if held is not None:
        del state.held[request_id]
        state.answered.pop(request_id, None)
        if (leader := state.groups.leave(request_id)) is not None:
            _rank_again(state, leader)
        else:
            free += state.groups.dissolve(request_id)
    if event.outcome == "completed":
        state.recent.add(event, tokens)
        free += _dissolve_waiting(state, tokens)  # need not be computed any more, it seems
    _enter_again(state, free)


def _dissolve_waiting(state: DispatchState, tokens: Sequence[str]) -> list[str]:
    """Dissolve the groups of these tokens whose leader waits; returns all who were in them."""
    leaders = {leader: None for token in tokens for leader in state.groups.leaders.get(token, ())}
    return [r for leader in leaders if state.held[leader].worker is None for r in (leader, *state.groups.dissolve(leader))]


def _enter_again(state: DispatchState, free: Sequence[str]) -> None:
    """Those first that can share a recent answer, since what they share binds their keys; the others by urgency."""
    for follower in sorted((state.held[r] for r in free), key=lambda h: (not state.recent.serves(h.request), _own_rank(h.request))):
        follower.rank = _own_rank(follower.request)
        _enter(state, follower)


def _enter(state: DispatchState, held: Held) -> None:
    """A request shares a recent answer, follows an identical one, or waits for a worker itself."""
    request = held.request
    tokens = tokens_of(request)
    for token in tokens:  # the binding one first
        held.answer = state.recent.find(request, token)
        if held.answer is not None:
            state.answered[request.request_id] = None
            state.recent.add(held.answer, [t for t in tokens if t.startswith("key ")])
            return
        if token in state.groups.leaders:
            break
    leader_id = state.groups.join(request.request_id, tokens)
    if leader_id is None:
        _enqueue(state, held)
        return
    leader = state.held[leader_id]
    if held.rank < leader.rank:
        leader.rank = held.rank
        _enqueue(state, leader)


def _lead(state: DispatchState, held: Held) -> None:
    """A request was placed: it leads now, and who waits with the same token follows it.

    While a state is rebuilt, that may be seen as a follower, or beside others that came meanwhile.
    """
    tokens = tokens_of(held.request)
    leader = state.groups.leave(held.request.request_id)
    if leader is not None:
        state.groups.lead(held.request.request_id, tokens)
        _rank_again(state, leader)
    _enter_again(state, _dissolve_waiting(state, tokens))


def _rank_again(state: DispatchState, leader_id: str) -> None:
    """Somebody left a group: its leader is as urgent as the most urgent of those that are left."""
    leader = state.held[leader_id]
    left = (state.held[f].request for f in state.groups.followers.get(leader_id, ()))
    rank = min(map(_own_rank, (leader.request, *left)))
    if rank != leader.rank:
        leader.rank = rank
        _enqueue(state, leader)


def _own_rank(request: DeepLearningRequested) -> tuple[int, int]:
    return -request.priority, request.deadline_at


def _enqueue(state: DispatchState, held: Held) -> None:
    """Let it wait at its rank; what it left in the queue at an earlier rank is dropped when it is met."""
    if held.worker is None:
        heapq.heappush(state.order, (*held.rank, held.request.request_id))
