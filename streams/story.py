"""Folds the records that belong to one request into its story: what happened when, where it stands on the log, and why. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from schemas.events import (
    DeadLettered,
    DeepLearningRequested,
    Final,
    GenerationFinished,
    GenerationMoved,
    GenerationStarted,
    InferenceCompleted,
    InferenceFailed,
    InferenceRejected,
    InferenceRequested,
    RequestAdmitted,
    RequestDispatched,
    RequestQueued,
    TokensGenerated,
)
from schemas.headers import RecordHeaders
from schemas.idempotency import IdempotencyKeyAnswered, IdempotencyKeyClaimed
from schemas.knowledge import AnswerLearned, AnswerRetracted, ScopeShutOff, SemanticHitChecked, WeakLabelGiven
from schemas.record import Record
from streams.ports import LogRecord
from streams.topics import FINALS

# Events of one millisecond are told in the order in which they follow from each other.
_ORDER: tuple[type[Record], ...] = (
    InferenceRequested, IdempotencyKeyClaimed, RequestAdmitted, DeepLearningRequested, RequestQueued, RequestDispatched, GenerationStarted,
    TokensGenerated, GenerationMoved, InferenceCompleted, InferenceRejected, InferenceFailed, GenerationFinished, AnswerLearned,
    IdempotencyKeyAnswered, WeakLabelGiven, SemanticHitChecked, ScopeShutOff, AnswerRetracted, DeadLettered,
)  # fmt: skip
_SHOWN_PROMPT = 60


@dataclass(frozen=True, slots=True)
class Found:
    """A record of the request, with its event, or None where the bytes are no event of ours."""

    record: LogRecord
    event: Record | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the story. `since_start_ms` counts from the request's making; `records` are those that the line stands for.

    `repeat`: a final event after the first one. The log may hold it more than once, and every reader drops it.
    """

    since_start_ms: int
    event: str
    what: str
    records: tuple[Found, ...]
    repeat: bool = False

    @property
    def first(self) -> LogRecord:
        """Where it stands on the log, or where it begins."""
        return self.records[0].record


@dataclass(frozen=True, slots=True)
class Hop:
    """A part of the way that an answered request went, in ms."""

    name: str
    ms: int


def tell(found: Sequence[Found], started_ms: int, *, group_tokens: bool = True) -> list[Step]:
    """The story in the order of the records' times. Tokens of one epoch make one line where `group_tokens`."""
    steps: list[Step] = []
    groups: dict[int, int] = {}
    final_seen = False
    for item in sorted(found, key=_order):
        event = item.event
        if group_tokens and isinstance(event, TokensGenerated):
            if event.epoch in groups:
                at = groups[event.epoch]
                steps[at] = _with_tokens(steps[at], item)
                continue
            groups[event.epoch] = len(steps)
        is_final = isinstance(event, FINALS)
        step = Step(
            since_start_ms=item.record.timestamp_ms - started_ms, event=event_name(item), what=_what((item,)),
            records=(item,), repeat=is_final and final_seen,
        )  # fmt: skip
        final_seen = final_seen or is_final
        steps.append(step)
    return steps


def event_name(item: Found) -> str:
    """Name of the event; of an undecodable record what its header says, which its sender chose."""
    if item.event is not None:
        return type(item.event).__name__
    return RecordHeaders.parse(item.record.headers).event or "undecodable"


def hops(final: InferenceCompleted) -> list[Hop]:
    """The way of an answered request with the time of each part, as its final event tells it. A known answer has one."""
    marks = [("requested", final.requested_at), ("admitted", final.admitted_at)]
    later = (("dispatched", final.dispatched_at), ("first token", final.first_token_at))
    if any(at is not None for _, at in later):
        marks += [(name, at) for name, at in later if at is not None]
        marks.append(("done", final.completed_at))
    else:
        marks = [marks[0], ("answered", final.completed_at)]
    return [Hop(f"{a}→{b}", until - since) for (a, since), (b, until) in pairwise(marks)]


def finished_ms(final: Final) -> int:
    """When a final event was made."""
    if isinstance(final, InferenceCompleted):
        return final.completed_at
    return final.rejected_at if isinstance(final, InferenceRejected) else final.failed_at


def _order(item: Found) -> tuple[int, int, str, int, int]:
    rank = _ORDER.index(type(item.event)) if item.event is not None and type(item.event) in _ORDER else 0
    record = item.record
    return record.timestamp_ms, rank, record.topic, record.partition, record.offset


def _with_tokens(step: Step, item: Found) -> Step:
    records = (*step.records, item)
    return replace(step, records=records, what=_what(records))


def _what(records: tuple[Found, ...]) -> str:
    event = records[0].event
    if isinstance(event, TokensGenerated):
        return _tokens(records)
    describe = _TEXTS.get(type(event)) if event is not None else None
    return f"{len(records[0].record.value or b'')} bytes that are no event of ours" if describe is None else describe(event)


def _tokens(records: tuple[Found, ...]) -> str:
    events = [item.event for item in records if isinstance(item.event, TokensGenerated)]
    count = sum(len(e.token_ids) for e in events)
    span = records[-1].record.timestamp_ms - records[0].record.timestamp_ms
    where = f"from index {events[0].first_index}, epoch {events[0].epoch}"
    return f"{_plural(count, 'token')} in {_plural(len(events), 'record')} over {span} ms, {where}"


def _requested(e: InferenceRequested) -> str:
    prompt = e.messages[-1].content if e.messages else ""
    shown = prompt if len(prompt) <= _SHOWN_PROMPT else prompt[: _SHOWN_PROMPT - 1] + "…"
    return f"{e.tenant} asks {e.model or 'the default model'}: {shown!r}"


def _dispatched(e: RequestDispatched) -> str:
    wait = "" if e.predicted_wait_ms is None else f", predicted wait {e.predicted_wait_ms:.0f} ms"
    return f"to {e.worker} under epoch {e.epoch}{wait}: {e.reason}"


def _completed(e: InferenceCompleted) -> str:
    learned = f", learned from {e.learned_from}" if e.learned_from else ""
    return f"{e.tier}: {e.reason}{learned}; {_plural(e.completion_tokens, 'token')}, {e.finish_reason}"


def _checked(e: SemanticHitChecked) -> str:
    verdict = "says the same as" if e.same else "says something else than"
    return f"entry {e.entry_id[:12]}… {verdict} a fresh answer, by {e.judge} at {e.confidence:.2f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_TEXTS: dict[type[Record], Callable[[Any], str]] = {
    InferenceRequested: _requested,
    RequestAdmitted: lambda e: f"{e.reason}; replies to {e.reply_to.topic}/{e.reply_to.partition}",
    DeepLearningRequested: lambda e: f"for {e.model}, at most {e.parameters.max_tokens} tokens, priority {e.priority}",
    RequestQueued: lambda e: f"{e.waiting} waiting at {e.dispatcher} (its epoch {e.dispatcher_epoch})",
    RequestDispatched: _dispatched,
    GenerationStarted: lambda e: f"{e.worker} under epoch {e.epoch}: batch of {e.batch_size}, {e.prompt_tokens} prompt tokens",
    GenerationMoved: lambda e: f"away from {e.worker} (epoch {e.epoch}): {e.reason}",
    InferenceCompleted: _completed,
    InferenceRejected: lambda e: f"{e.code}: {e.reason} → {e.remedy}",
    InferenceFailed: lambda e: f"{e.code} in {e.stage}: {e.reason} → {e.remedy}",
    GenerationFinished: lambda e: f"{e.worker or 'the dispatcher'} (epoch {e.epoch}): {e.outcome}, {e.finish_reason}",
    AnswerLearned: lambda e: f"entry {e.entry_id[:12]}…: {e.cause}",
    IdempotencyKeyClaimed: lambda e: f"key {e.key[:12]}…, body {e.body[:12]}…",
    IdempotencyKeyAnswered: lambda e: f"key {e.key[:12]}…, body {e.body[:12]}…: by the tier {e.tier}",
    AnswerRetracted: lambda e: f"entry {e.entry_id[:12]}… by {e.retracted_by}: {e.reason}",
    SemanticHitChecked: _checked,
    ScopeShutOff: lambda e: f"{e.reason}; semantic answers of scope {e.scope[:12]}… stop",
    WeakLabelGiven: lambda e: f"{e.label!r} by {e.given_by}; {e.classifier} guessed {e.guess!r} at {e.confidence:.2f}",
    DeadLettered: lambda e: f"by {e.service}, {e.code}: {e.reason} → {e.remedy}",
}
