"""The dispatcher's decisions. Pure: `decide` says what happens next, from the state that `evolve` folds (streams.dispatch_state)."""

from __future__ import annotations

import heapq

from schemas.events import GenerationFinished, GenerationMoved, RequestDispatched
from schemas.record import Record
from streams.coalescing import shared_end
from streams.dispatch_state import DispatchState, Held, Worker, evolve

MISSED_HEARTBEATS = 3
MOST_PLACEMENTS = 4  # a request that four workers could not serve will not be served by a fifth
_FAIL_EARLY_MS = 300  # so that the failure is on the log before the deadline


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
