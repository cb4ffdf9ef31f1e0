"""What a dispatcher knows: a fold of events. Of identical requests one is to be placed, and the others follow it (streams.coalescing).

The state can be folded anew from the log at any time: folding an event twice, or late, changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.events import DeepLearningRequested, GenerationFinished, GenerationMoved, RequestDispatched, WorkerReported
from schemas.record import Record
from streams.coalescing import Groups, RecentAnswers, tokens_of

_REMEMBERED_MS = 600_000  # how long beyond its deadline a finished request is known again when its record comes once more


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
