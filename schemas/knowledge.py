"""The events of what is known: answers learned, checked and retracted, how far a scope is trusted, and what people say of answers.

`avro/*.avsc` is the source of truth, as for `schemas.events`, which lists all events.
"""

from __future__ import annotations

from schemas.record import Record


class Question(Record, frozen=True, kw_only=True):
    """What a semantic answer is found by. `vector` is of unit length, as little-endian 16-bit floats."""

    scope: str
    text: str
    embedding_version: str
    vector: bytes


class AnswerLearned(Record, frozen=True, kw_only=True):
    """An answer that is known from now on. Key: the entry's id; the topic is compacted."""

    entry_id: str
    tenant: str
    model: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    learned_from: str
    cause: str
    learned_at: int
    question: Question | None = None


class AnswerRetracted(Record, frozen=True, kw_only=True):
    """A known answer is known no longer, and the same text is never learned for this entry again. Key: the entry's id."""

    entry_id: str
    tenant: str
    text_digest: str
    reason: str
    retracted_by: str
    retracted_at: int


class SemanticHitChecked(Record, frozen=True, kw_only=True):
    """A known answer was compared with a fresh one to the same question. Key: the scope."""

    request_id: str
    met_by: str
    tenant: str
    scope: str
    entry_id: str
    similarity: float
    score: float
    served: bool
    same: bool
    confidence: float
    judge: str
    checked_at: int


class Observation(Record, frozen=True, kw_only=True):
    """One comparison of an entry's answer with a fresh one."""

    score: float
    same: bool


class EntryObserved(Record, frozen=True, kw_only=True):
    """All that is known of how far an entry's answer reaches. The topic is compacted."""

    entry_id: str
    tenant: str
    scope: str
    observations: tuple[Observation, ...]
    observed_at: int


class ScopeAssessed(Record, frozen=True, kw_only=True):
    """How far the semantic answers of a scope are to be trusted. The topic is compacted."""

    scope: str
    tenant: str
    model: str
    status: str
    checked: int
    wrong: int
    evidence: float
    wealth: tuple[float, ...]
    limit: float
    reason: str
    opened_at: int
    recent: tuple[str, ...]
    assessed_at: int


class ScopeShutOff(Record, frozen=True, kw_only=True):
    """A scope serves no semantic answers any more: more of them are wrong than the limit allows. Key: the scope."""

    scope: str
    tenant: str
    model: str
    checked: int
    wrong: int
    limit: float
    reason: str
    shut_off_at: int


class ScopeReopened(Record, frozen=True, kw_only=True):
    """A person let a scope serve semantic answers again; it begins as a new one. Key: the scope."""

    scope: str
    tenant: str
    reason: str
    reopened_by: str
    reopened_at: int


class WeakLabelGiven(Record, frozen=True, kw_only=True):
    """A large model labelled what a small one was not sure of. Never trained on before somebody confirmed it."""

    request_id: str
    tenant: str
    classifier: str
    text: str
    label: str
    guess: str
    confidence: float
    given_by: str
    given_at: int


class FeedbackGiven(Record, frozen=True, kw_only=True):
    """Somebody says whether an answer was right. Key: the request's id."""

    request_id: str
    tenant: str
    right: bool
    correction: str | None = None
    given_by: str
    given_at: int
