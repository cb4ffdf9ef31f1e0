"""The events of idempotency keys. `avro/*.avsc` is the source of truth, as for `schemas.events`, which lists all events."""

from __future__ import annotations

from schemas.record import Record


class IdempotencyKeyClaimed(Record, frozen=True, kw_only=True):
    """A request with an idempotency key goes to the deep-learning service. Key: the key's digest."""

    key: str
    body: str
    tenant: str
    request_id: str
    deadline_at: int
    claimed_at: int


class IdempotencyKeyAnswered(Record, frozen=True, kw_only=True):
    """The response to an idempotency key, given again to whoever asks with the same key and body. Key: the key's digest."""

    key: str
    body: str
    tenant: str
    request_id: str
    deadline_at: int
    model: str
    tier: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    embedding: tuple[float, ...] = ()
    confidence: float | None = None
    answered_at: int
