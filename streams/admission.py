"""Admission: whether a request may go on. Pure: the same for the bridge's requests and a bare producer's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from schemas.events import InferenceRequested, Parameters, Position
from schemas.headers import RecordHeaders
from schemas.ids import uuid7_ms
from streams.errors import PoisonError
from streams.routing import partition_for
from streams.small_models import CLASSIFY, EMBED, GENERATE
from streams.topics import RESPONSES, reply_topic

ROLES = frozenset({"system", "user", "assistant"})
_MOST_STOPS = 8
_MOST_LABELS = 1000
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """What an installation lets in. Sizes in bytes, times in ms.

    `models` generate; `task_models` holds those of the other tasks, by task, the default one first.
    """

    models: Collection[str]
    default_model: str
    tenants: Collection[str]
    partitions: int
    max_request_bytes: int
    max_tokens_limit: int
    default_max_tokens: int
    default_deadline_ms: int
    max_deadline_ms: int
    known_max_temperature: float
    task_models: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def models_of(self, task: str) -> Sequence[str]:
        """Models of a task, the default one first; () for a task that is not served."""
        if task == GENERATE:
            return (self.default_model, *sorted(set(self.models) - {self.default_model}))
        return tuple(self.task_models.get(task, ()))


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its defaults filled in, but for the seed: one that is made up must not tell identical requests apart.

    `cacheable`: its answer may be learned; `known_allowed`: a known one may be served."""

    request: InferenceRequested
    deadline_ms: int
    reply_to: Position
    cacheable: bool
    known_allowed: bool


class RequestRefused(PoisonError):
    """A request was refused at admission: `code` says for what, `remedy` what to change before sending it anew."""


def check_size(value: bytes | None, limits: AdmissionLimits) -> None:
    """Before decoding, so that a huge record costs nothing. Raises RequestRefused."""
    size = len(value or b"")
    if size > limits.max_request_bytes:
        raise RequestRefused("too_large", f"the request has {size} bytes, {limits.max_request_bytes} are allowed", "shorten the messages")


def admit(request: InferenceRequested, headers: RecordHeaders, limits: AdmissionLimits, now_ms: int) -> Admitted:
    """Check a decoded request and fill in the defaults. Raises RequestRefused."""
    _check_identity(request, limits)
    model = _model(request, limits)
    _check_content(request, limits)
    deadline = deadline_of(request.deadline_at, headers.deadline_ms, request.requested_at, limits, now_ms)
    if deadline <= now_ms:
        raise RequestRefused("deadline_passed", f"its deadline passed {now_ms - deadline} ms ago", "send it anew with a later deadline")
    p = request.parameters
    whole = request
    if request.model != model:
        whole = replace(whole, model=model)
    if request.task == GENERATE and p.max_tokens is None:
        whole = replace(whole, parameters=replace(p, max_tokens=limits.default_max_tokens))
    repeatable = p.temperature <= limits.known_max_temperature
    return Admitted(
        request=whole,
        deadline_ms=deadline,
        reply_to=reply_position(request.request_id, request.tenant, headers.reply_to, limits),
        cacheable=repeatable and request.cache != "no-store",
        known_allowed=repeatable and request.cache == "default",
    )


def deadline_of(asked: int | None, header: int | None, requested_at: int, limits: AdmissionLimits, now_ms: int) -> int:
    """When a request ends: what it asks for (the earlier of event and header), or the default, never beyond the longest."""
    wishes = [d for d in (asked, header) if d is not None]
    wish = min(wishes) if wishes else min(requested_at, now_ms) + limits.default_deadline_ms
    return min(wish, now_ms + limits.max_deadline_ms)


def reply_position(request_id: str, tenant: str, asked: Position | None, limits: AdmissionLimits) -> Position:
    """Where replies go: where the request asks, if its tenant may use that, or else a partition of the common topic by its id.

    A request that asks for somebody else's topic is answered in the common one: it cannot make us write elsewhere.
    """
    if asked is not None and 0 <= asked.partition < limits.partitions and (
        asked.topic == RESPONSES or (tenant in limits.tenants and asked.topic == reply_topic(tenant))
    ):
        return asked
    return Position(topic=RESPONSES, partition=partition_for(request_id.encode(), limits.partitions), offset=-1)


def _check_identity(request: InferenceRequested, limits: AdmissionLimits) -> None:
    try:
        uuid7_ms(request.request_id)
    except ValueError as error:
        raise RequestRefused("bad_request_id", f"the request id is no UUIDv7: {error}", "make the id with schemas.ids.uuid7()") from error
    if request.tenant not in limits.tenants:
        raise RequestRefused("unknown_tenant", f"there is no tenant {request.tenant!r}", "use a tenant that this installation lists")


def _model(request: InferenceRequested, limits: AdmissionLimits) -> str:
    """The model that the request names, or its task's default."""
    known = limits.models_of(request.task)
    if not known:
        tasks = ", ".join((GENERATE, *limits.task_models))
        raise RequestRefused("invalid_request", f"task {request.task!r} is not served", f"ask for one of these tasks: {tasks}")
    model = request.model or known[0]
    if model not in known:
        reason = f"there is no model {model!r} for the task {request.task}"
        raise RequestRefused("unknown_model", reason, f"ask one of: {', '.join(known)}")
    return model


def _check_content(request: InferenceRequested, limits: AdmissionLimits) -> None:
    p = request.parameters
    wrong = ""
    if request.cache not in ("default", "no-cache", "no-store"):
        wrong = f"cache {request.cache!r} is none of default, no-cache, no-store"
    elif not request.messages or request.messages[-1].role != "user":
        wrong = "there is no message, or the last one is not the user's"
    elif (unknown := next((m.role for m in request.messages if m.role not in ROLES), None)) is not None:
        wrong = f"unknown role {unknown!r}"
    elif not request.messages[-1].content.strip():
        wrong = "the last message is empty"
    elif p.max_tokens is not None and not 1 <= p.max_tokens <= limits.max_tokens_limit:
        wrong = f"max_tokens {p.max_tokens} is not in 1 … {limits.max_tokens_limit}"
    elif not 0 <= p.temperature <= 2 or not 0 < p.top_p <= 1:
        wrong = "temperature must be in 0 … 2 and top_p above 0, up to 1"
    elif (key := request.idempotency_key) is not None and not (1 <= len(key) <= _LONGEST_KEY and key.isprintable()):
        wrong = f"the idempotency key must have 1 … {_LONGEST_KEY} printable characters"
    elif len(p.stop) > _MOST_STOPS or not all(p.stop):
        wrong = f"at most {_MOST_STOPS} stop strings, none of them empty"
    elif p.labels:
        wrong = _wrong_labels(request.task, p)
    if not wrong and request.task in (CLASSIFY, EMBED):
        wrong = _meaningless(request.task, p)
    if wrong:
        raise RequestRefused("invalid_request", wrong, "correct the request")


def _wrong_labels(task: str, p: Parameters) -> str:
    """What is wrong with labels that were given, or ""."""
    wrong = ""
    if task == EMBED:
        wrong = "labels mean nothing to the task embed"
    elif p.stop:
        wrong = "labels and stop strings exclude each other: an answer ends where its label does"
    elif len(p.labels) > _MOST_LABELS or len(set(p.labels)) < len(p.labels):
        wrong = f"at most {_MOST_LABELS} labels, each of them once"
    elif any(not label or label != label.strip() for label in p.labels):
        wrong = "labels must not be empty, nor begin or end with a space"
    return wrong


def _meaningless(task: str, p: Parameters) -> str:
    """A parameter of generation where nothing is generated, or "": who sets one expects something that will not happen."""
    given = replace(p, labels=())
    usual = Parameters()
    name = next((name for name in p.__struct_fields__ if getattr(given, name) != getattr(usual, name)), None)
    return "" if name is None else f"{name} means nothing to the task {task}"
