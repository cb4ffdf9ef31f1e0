"""The events of Headrace as frozen classes. `avro/*.avsc` is the source of truth; a test holds these equal to it.

All times are milliseconds since the epoch. What each field means stands in its schema's `doc`.
"""

from __future__ import annotations

from schemas.idempotency import IdempotencyKeyAnswered, IdempotencyKeyClaimed
from schemas.knowledge import (
    AnswerLearned,
    AnswerRetracted,
    EntryObserved,
    FeedbackGiven,
    Question,
    ScopeAssessed,
    ScopeReopened,
    ScopeShutOff,
    SemanticHitChecked,
    WeakLabelGiven,
)
from schemas.record import Record


class Message(Record, frozen=True, kw_only=True):
    """One turn of a chat."""

    role: str
    content: str


class Parameters(Record, frozen=True, kw_only=True):
    """How to generate, as in the OpenAI API."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


class Position(Record, frozen=True, kw_only=True):
    """A place on the log."""

    topic: str
    partition: int
    offset: int


class InferenceRequested(Record, frozen=True, kw_only=True):
    """A producer or the bridge asks for an answer. Key: the routing digest of scope and prompt."""

    request_id: str
    tenant: str
    model: str
    task: str = "generate"
    messages: tuple[Message, ...]
    parameters: Parameters
    priority: int = 0
    cache: str = "default"
    requested_at: int
    deadline_at: int | None = None
    prompt_version: str = ""
    idempotency_key: str | None = None


class InferenceCompleted(Record, frozen=True, kw_only=True):
    """The final event of a request that was answered. Carries all the facts of the way, so that a known answer costs one record."""

    request_id: str
    tenant: str
    model: str
    tier: str
    reason: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    entry_id: str | None = None
    learned_from: str | None = None
    requested_at: int
    admitted_at: int
    dispatched_at: int | None = None
    started_at: int | None = None
    first_token_at: int | None = None
    completed_at: int
    worker: str | None = None
    epoch: int = 0
    source: Position
    similarity: float | None = None
    confidence: float | None = None
    embedding: tuple[float, ...] = ()
    shared_with: str | None = None


class InferenceRejected(Record, frozen=True, kw_only=True):
    """The final event of a request that was refused before any work was done on it."""

    request_id: str
    tenant: str
    code: str
    reason: str
    retryable: bool
    remedy: str
    requested_at: int | None = None
    rejected_at: int
    source: Position


class InferenceFailed(Record, frozen=True, kw_only=True):
    """The final event of an admitted request that got no answer."""

    request_id: str
    tenant: str
    code: str
    reason: str
    retryable: bool
    remedy: str
    stage: str
    epoch: int = 0
    requested_at: int | None = None
    failed_at: int
    source: Position


class TokensGenerated(Record, frozen=True, kw_only=True):
    """Some tokens of one answer, in order. A reader drops indices it has seen, and epochs older than the newest it has seen."""

    request_id: str
    epoch: int
    first_index: int
    token_ids: tuple[int, ...]
    text: str
    generated_at: int


class RequestAdmitted(Record, frozen=True, kw_only=True):
    """The inference service let a request in and does not know the answer."""

    request_id: str
    tenant: str
    model: str
    reason: str
    requested_at: int
    admitted_at: int
    deadline_at: int
    reply_to: Position
    source: Position


class SemanticCheck(Record, frozen=True, kw_only=True):
    """Orders that a known answer be compared with a fresh one to the same question."""

    entry_id: str
    similarity: float
    score: float
    served: bool
    known_text: str
    request_id: str


class Guess(Record, frozen=True, kw_only=True):
    """A small model's label that its confidence did not suffice for."""

    classifier: str
    text: str
    label: str
    confidence: float


class Idempotency(Record, frozen=True, kw_only=True):
    """An idempotency key as keyed digests: neither the key nor the body can be read from them."""

    key: str
    body: str


class DeepLearningRequested(Record, frozen=True, kw_only=True):
    """An admitted request for the deep-learning service. Key: the model."""

    request_id: str
    tenant: str
    model: str
    messages: tuple[Message, ...]
    parameters: Parameters
    priority: int = 0
    entry_id: str | None = None
    requested_at: int
    admitted_at: int
    deadline_at: int
    reply_to: Position
    source: Position
    task: str = "generate"
    question: Question | None = None
    check: SemanticCheck | None = None
    guess: Guess | None = None
    idempotency: Idempotency | None = None


class RequestQueued(Record, frozen=True, kw_only=True):
    """The dispatcher holds a request."""

    request_id: str
    model: str
    waiting: int
    dispatcher: str
    dispatcher_epoch: int
    queued_at: int


class RequestDispatched(Record, frozen=True, kw_only=True):
    """The dispatcher placed a request on a worker. On the dispatch topic it carries the request; on the lifecycle topic it does not."""

    request_id: str
    model: str
    worker: str
    slot: int
    incarnation: int
    epoch: int
    dispatcher_epoch: int
    predicted_wait_ms: float | None = None
    reason: str
    dispatched_at: int
    request: DeepLearningRequested | None = None


class GenerationStarted(Record, frozen=True, kw_only=True):
    """A worker let a request into its batch."""

    request_id: str
    worker: str
    epoch: int
    batch_size: int
    prompt_tokens: int
    started_at: int


class GenerationMoved(Record, frozen=True, kw_only=True):
    """A placement was given up, and the request waits for another worker."""

    request_id: str
    worker: str
    epoch: int
    reason: str
    moved_at: int


class GenerationFinished(Record, frozen=True, kw_only=True):
    """A worker is done with a placement, whatever came of it. Key: the model."""

    request_id: str
    tenant: str
    model: str
    worker: str
    epoch: int
    outcome: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    entry_id: str | None = None
    finished_at: int
    task: str = "generate"
    question: Question | None = None
    check: SemanticCheck | None = None
    guess: Guess | None = None
    idempotency: Idempotency | None = None


class RunningRequest(Record, frozen=True, kw_only=True):
    """A placement that a worker holds."""

    request_id: str
    epoch: int


class WorkerReported(Record, frozen=True, kw_only=True):
    """A worker's heartbeat. Key: the worker's id; the topic is compacted."""

    worker: str
    slot: int
    incarnation: int
    model: str
    device: str
    slots: int
    tokens_in_flight: int
    prefill_tokens_per_s: float
    service_s: float
    running: tuple[RunningRequest, ...]
    draining: bool = False
    reported_at: int


class Header(Record, frozen=True, kw_only=True):
    """A record header."""

    name: str
    value: bytes | None


class DeadLettered(Record, frozen=True, kw_only=True):
    """A record that could not be processed, kept as it was."""

    origin: Position
    origin_timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    service: str
    code: str
    reason: str
    remedy: str
    attempts: int
    dead_lettered_at: int

EVENTS: tuple[type[Record], ...] = (
    InferenceRequested, InferenceCompleted, InferenceRejected, InferenceFailed, TokensGenerated,
    RequestAdmitted, DeepLearningRequested, RequestQueued, RequestDispatched, GenerationStarted, GenerationMoved, GenerationFinished,
    WorkerReported, AnswerLearned, AnswerRetracted, SemanticHitChecked, EntryObserved, ScopeAssessed, ScopeShutOff, ScopeReopened,
    WeakLabelGiven, FeedbackGiven, IdempotencyKeyClaimed, IdempotencyKeyAnswered, DeadLettered,
)  # fmt: skip
Final = InferenceCompleted | InferenceRejected | InferenceFailed
