"""Idempotency keys: who has a key, and what it was answered. Pure: a fold over one log topic, whose order decides.

The first record on the log that finds its key free takes it, a claim or an answer. So a request whose own record has been read back
knows where it stands, whichever agents raced, and nobody has to ask a store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from schemas.events import GenerationFinished, Idempotency, InferenceCompleted
from schemas.idempotency import IdempotencyKeyAnswered, IdempotencyKeyClaimed

KEPT_MS = 24 * 3_600_000  # an answer is given again for as long
GRACE_MS = 60_000  # how long after its deadline an answer may still reach the log
_BY_COMPUTATION = "deep-learning"

Standing = Literal["free", "mine", "claimed", "answered", "conflict"]


@dataclass(slots=True)
class Holder:
    """Who has a key until when, and the response where there is one."""

    body: str
    request_id: str
    until_ms: int
    answer: IdempotencyKeyAnswered | None = None


@dataclass(slots=True)
class IdempotencyKeys:
    """All keys in use. A failed request gives its key back: those with the same body may try again at once, others when it is overdue."""

    holders: dict[str, Holder] = field(default_factory=dict)

    def fold(self, event: IdempotencyKeyClaimed | IdempotencyKeyAnswered) -> None:
        """Fold a record, in the order of the log. Again or late, it changes nothing."""
        answer = event if isinstance(event, IdempotencyKeyAnswered) else None
        at = event.claimed_at if isinstance(event, IdempotencyKeyClaimed) else event.answered_at
        holder = self.holders.get(event.key)
        if holder is None or holder.until_ms < at:
            until = event.deadline_at + GRACE_MS if answer is None else at + KEPT_MS
            self.holders[event.key] = Holder(event.body, event.request_id, until, answer)
        elif answer is not None and holder.answer is None and holder.body == event.body and answer.tier == _BY_COMPUTATION:
            # What was claimed was computed. A known answer counts only where it is first: its request was then sent elsewhere.
            self.holders[event.key] = Holder(event.body, event.request_id, at + KEPT_MS, answer)

    def standing(self, asked: Idempotency, request_id: str, now_ms: int) -> Standing:
        """How a request stands to its key: it may take it, has it, waits for who has it, shares the answer, or may not use it."""
        holder = self.holders.get(asked.key)
        if holder is None or holder.until_ms < now_ms:
            return "free"
        if holder.body != asked.body:
            return "conflict"
        if holder.answer is not None:
            return "answered"
        return "mine" if holder.request_id == request_id else "claimed"

    def answer(self, asked: Idempotency) -> IdempotencyKeyAnswered | None:
        """The response to a key that was answered."""
        holder = self.holders.get(asked.key)
        return None if holder is None else holder.answer

    def forget(self, now_ms: int) -> None:
        """Drop keys that are free again."""
        for key in [k for k, holder in self.holders.items() if holder.until_ms < now_ms]:
            del self.holders[key]


def claim(asked: Idempotency, tenant: str, request_id: str, deadline_at: int, now_ms: int) -> IdempotencyKeyClaimed:
    """What a request publishes that goes to the deep-learning service."""
    return IdempotencyKeyClaimed(
        key=asked.key, body=asked.body, tenant=tenant, request_id=request_id, deadline_at=deadline_at, claimed_at=now_ms
    )


def known_answer(asked: Idempotency, final: InferenceCompleted, deadline_at: int, now_ms: int) -> IdempotencyKeyAnswered:
    """What a request publishes that a known answer serves."""
    return IdempotencyKeyAnswered(
        key=asked.key, body=asked.body, tenant=final.tenant, request_id=final.request_id, deadline_at=deadline_at, model=final.model,
        tier=final.tier, text=final.text, finish_reason=final.finish_reason, prompt_tokens=final.prompt_tokens,
        completion_tokens=final.completion_tokens, embedding=final.embedding, confidence=final.confidence, answered_at=now_ms,
    )  # fmt: skip


def computed_answer(result: GenerationFinished) -> IdempotencyKeyAnswered | None:
    """What the learning service publishes of a result; None where there is nothing to answer again. Repeats come out the same."""
    asked = result.idempotency
    if asked is None or result.outcome != "completed":
        return None
    return IdempotencyKeyAnswered(
        key=asked.key, body=asked.body, tenant=result.tenant, request_id=result.request_id, deadline_at=result.finished_at,
        model=result.model, tier=_BY_COMPUTATION, text=result.text, finish_reason=result.finish_reason,
        prompt_tokens=result.prompt_tokens, completion_tokens=result.completion_tokens, answered_at=result.finished_at,
    )  # fmt: skip
