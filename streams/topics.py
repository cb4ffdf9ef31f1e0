"""The topic catalogue: every topic with its key, events, retention, and who may write and read it. ACLs and schemas follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from schemas.events import (
    DeadLettered,
    DeepLearningRequested,
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
    WorkerReported,
)
from schemas.idempotency import IdempotencyKeyAnswered, IdempotencyKeyClaimed
from schemas.knowledge import (
    AnswerLearned,
    AnswerRetracted,
    EntryObserved,
    FeedbackGiven,
    ScopeAssessed,
    ScopeReopened,
    ScopeShutOff,
    SemanticHitChecked,
    WeakLabelGiven,
)
from schemas.record import Record

REQUESTS = "inference.requests"
RESPONSES = "inference.responses"
TOKENS = "inference.tokens"
LIFECYCLE = "inference.lifecycle"
IDEMPOTENCY = "inference.idempotency"
DL_REQUESTS = "deep-learning.requests"
DL_DISPATCH = "deep-learning.dispatch"
DL_RESULTS = "deep-learning.results"
DL_WORKERS = "deep-learning.workers"
KNOWLEDGE = "knowledge.answers"
KNOWLEDGE_CHECKS = "knowledge.checks"
KNOWLEDGE_TRUST = "knowledge.trust"
FEEDBACK = "feedback.events"
FEEDBACK_LABELS = "feedback.labels"
DEAD_LETTERS = "dead-letters"

INFERENCE, DISPATCHER, DEEP_LEARNING, LEARNING, SWEEPER = "inference", "dispatcher", "deep-learning", "learning", "sweeper"
CLIENT, OPERATOR = "client", "operator"
SERVICES = (INFERENCE, DISPATCHER, DEEP_LEARNING, LEARNING, SWEEPER)

FINALS = (InferenceCompleted, InferenceRejected, InferenceFailed)
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `retention_ms` is ignored where `compacted`. `operator` reads every topic, `admin` may do anything."""

    name: str
    key: str
    events: tuple[type[Record], ...]
    partitions: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    retention_ms: int = 7 * _DAY_MS
    compacted: bool = False
    config: dict[str, str] = field(default_factory=dict, hash=False)

    def settings(self) -> dict[str, str]:
        """The topic's configuration in Kafka's own terms."""
        common = {"message.timestamp.type": "CreateTime", **self.config}
        if self.compacted:
            # A short dirty time keeps a rebuild from the topic quick; tombstones stay a day for readers that were away.
            return {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.2", "delete.retention.ms": str(_DAY_MS), **common}
        return {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms), **common}


def reply_topic(tenant: str) -> str:
    """Where a tenant's bare producers get tokens and final events: they can read this topic and no other."""
    return f"inference.replies.{tenant}"


def retraction_key(entry_id: str, text_digest: str) -> str:
    """Key on KNOWLEDGE under which compaction keeps each retracted text of an entry, whatever is learned for the entry afterwards."""
    return f"retracted {entry_id} {text_digest}"


def is_retraction_key(key: str) -> bool:
    """Whether a record on KNOWLEDGE tells of a retracted text and not of what an entry is now. Entry ids hold no space."""
    return key.startswith("retracted ")


def producer_user(tenant: str) -> str:
    """Kafka user of a tenant's bare producers."""
    return f"producer-{tenant}"


def catalogue(tenants: Iterable[str], partitions: int, worker_slots: int) -> tuple[Topic, ...]:
    """All topics of an installation."""
    names = tuple(tenants)
    repliers = (INFERENCE, DISPATCHER, DEEP_LEARNING, SWEEPER)
    producers = tuple(producer_user(t) for t in names)
    longest = {"max.message.bytes": str(8 << 20)}  # dead letters and dispatches carry a whole request inside,
    # What anybody can publish: so small that a dead letter holds it, in plain batches, since a compressed one may hold far more and
    # needs codecs that the readers lack, and with the broker's time, since a producer's may lie in the future.
    request = {"max.message.bytes": str(1 << 20), "compression.type": "uncompressed", "message.timestamp.type": "LogAppendTime"}

    topic = partial(Topic, partitions=partitions)

    return (
        topic(
            REQUESTS, "routing digest", (InferenceRequested,),
            writers=(CLIENT, OPERATOR, *producers), readers=(INFERENCE, SWEEPER, CLIENT), config=request,
        ),  # the operator replays dead letters
        topic(RESPONSES, "request id; partition = reply partition", FINALS, writers=repliers, readers=(CLIENT, SWEEPER)),
        topic(
            TOKENS, "request id; partition = reply partition", (TokensGenerated,),
            writers=(DEEP_LEARNING,), readers=(CLIENT,), retention_ms=_DAY_MS,
        ),
        topic(
            LIFECYCLE, "request id", (RequestAdmitted, RequestQueued, RequestDispatched, GenerationStarted, GenerationMoved),
            writers=(INFERENCE, DISPATCHER, DEEP_LEARNING), readers=(CLIENT,), retention_ms=30 * _DAY_MS,
        ),
        # Not compacted: the first record of a key counts, and compaction keeps the last. Short segments, so that old ones do go.
        topic(
            IDEMPOTENCY, "idempotency key", (IdempotencyKeyClaimed, IdempotencyKeyAnswered),
            writers=(INFERENCE, LEARNING), readers=(INFERENCE,), retention_ms=2 * _DAY_MS, config={**longest, "segment.ms": str(_HOUR_MS)},
        ),
        topic(DL_REQUESTS, "model", (DeepLearningRequested,), writers=(INFERENCE,), readers=(DISPATCHER,), config=longest),
        topic(
            DL_RESULTS, "model", (GenerationFinished,),
            writers=(DEEP_LEARNING, DISPATCHER), readers=(DISPATCHER, LEARNING), config=longest,
        ),
        topic(
            DL_DISPATCH, "request id; partition = worker slot", (RequestDispatched,), partitions=worker_slots,
            writers=(DISPATCHER,), readers=(DEEP_LEARNING, DISPATCHER), retention_ms=_DAY_MS, config=longest,
        ),
        topic(
            DL_WORKERS, "worker id", (WorkerReported,), partitions=1,
            writers=(DEEP_LEARNING,), readers=(DISPATCHER, CLIENT), compacted=True,
        ),
        topic(
            KNOWLEDGE, "entry id", (AnswerLearned, AnswerRetracted),
            writers=(LEARNING, OPERATOR), readers=(LEARNING, INFERENCE), compacted=True, config=longest,
        ),  # the operator retracts and imports
        topic(
            KNOWLEDGE_CHECKS, "scope", (SemanticHitChecked, ScopeShutOff, ScopeReopened),
            writers=(LEARNING, OPERATOR), readers=(LEARNING, CLIENT), retention_ms=30 * _DAY_MS,
        ),
        topic(
            KNOWLEDGE_TRUST, "scope or entry", (ScopeAssessed, EntryObserved),
            writers=(LEARNING,), readers=(LEARNING, INFERENCE, CLIENT), compacted=True,
        ),
        topic(FEEDBACK, "request id", (FeedbackGiven,), writers=(CLIENT,), readers=(LEARNING,), retention_ms=400 * _DAY_MS),
        topic(FEEDBACK_LABELS, "request id", (WeakLabelGiven,), writers=(LEARNING,), readers=(LEARNING,), retention_ms=400 * _DAY_MS),
        topic(DEAD_LETTERS, "origin", (DeadLettered,), writers=SERVICES, readers=(), retention_ms=30 * _DAY_MS, config=longest),
        *(
            topic(
                reply_topic(tenant), "request id; partition = reply partition", (*FINALS, TokensGenerated),
                writers=repliers, readers=(producer_user(tenant), SWEEPER),
            )
            for tenant in names
        ),
    )  # fmt: skip


def users(tenants: Iterable[str]) -> tuple[str, ...]:
    """All Kafka users but `admin`."""
    return (*SERVICES, CLIENT, OPERATOR, *(producer_user(t) for t in tenants))
