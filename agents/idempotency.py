"""Idempotency keys at the inference service: takes a key by publishing, and knows from the log who has it.

Every agent follows all of the topic. A request publishes its claim or its known answer and waits until that has been read back, a few
milliseconds; then everything before it is folded, and it knows where it stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from schemas.codec import Codec
from schemas.events import DeepLearningRequested, Idempotency, InferenceCompleted, Position
from schemas.headers import RecordHeaders
from schemas.idempotency import IdempotencyKeyAnswered, IdempotencyKeyClaimed
from schemas.ids import named_event_id
from streams.acknowledging import publish_until_done
from streams.admission import Admitted, RequestRefused
from streams.decoding import own_event
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.idempotency import GRACE_MS, KEPT_MS, IdempotencyKeys, Standing, claim, known_answer
from streams.ports import Clock, Log, LogFollower, LogRecord, Outgoing, Publisher
from streams.small_models import SMALL_TASKS
from streams.topics import IDEMPOTENCY, INFERENCE

log = logging.getLogger(__name__)

_FORGET_MS = 60_000
_IN_USE = (
    "its idempotency key was used for another request, with other messages or parameters",
    "use a new key for each new request; the same key is for sending the same request again",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPorts:
    """What keys need of the world."""

    publisher: Publisher
    log: Log
    codec: Codec
    clock: Clock
    failpoints: Failpoints
    max_deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request with a key, and the ways to end it: by the tiers, by the deep-learning service, or by a response that was given before."""

    asked: Idempotency
    admitted: Admitted
    source: Position
    by_tiers: Callable[[], Awaitable[list[Outgoing]]]
    pass_on: Callable[[str], list[Outgoing]]
    reply: Callable[[InferenceCompleted], Outgoing]


class KeyService:
    """The keys in use, as the log has them."""

    def __init__(self, ports: KeyPorts) -> None:
        self._ports = ports
        self._keys = IdempotencyKeys()
        self._caught_up = asyncio.Event()
        self._read_back: dict[tuple[str, str], list[asyncio.Future[None]]] = {}

    @property
    def ready(self) -> bool:
        """Whether the log was read to its end once."""
        return self._caught_up.is_set()

    async def settle(self, request: KeyedRequest) -> list[Outgoing]:
        """What to publish for a request. Raises RequestRefused where its key belongs to another one."""
        await self._caught_up.wait()
        asked, request_id = request.asked, request.admitted.request.request_id
        standing = self._keys.standing(asked, request_id, self._ports.clock.now_ms())
        out: list[Outgoing] = []
        if standing == "free":
            out = await request.by_tiers()
            taken = await self._take(request, out)
            if taken is None:  # refused or failed: that takes no key
                return out
            standing = taken
        if standing == "conflict":
            raise RequestRefused("idempotency_conflict", *_IN_USE)
        answer = self._keys.answer(asked)
        if standing == "answered" and answer is not None:
            if out and answer.request_id == request_id:
                return out
            return [request.reply(_response(request, answer, self._ports.clock.now_ms()))]
        if request.admitted.request.task in SMALL_TASKS:  # how the language model is to be asked follows from what a small one guesses
            return out or await request.by_tiers()
        if out and not any(isinstance(o.event, InferenceCompleted) for o in out):
            return out
        return request.pass_on("its idempotency key is being answered")  # whatever is known here

    async def _take(self, request: KeyedRequest, out: Sequence[Outgoing]) -> Standing | None:
        """Publish the claim or the answer that `out` amounts to, and how the request stands once that has been read back."""
        proposal = self._proposal(request, out)
        if proposal is None:
            return None
        asked, identity = request.asked, request.admitted.request
        read_back = asyncio.get_running_loop().create_future()
        self._read_back.setdefault((asked.key, identity.request_id), []).append(read_back)
        headers = RecordHeaders(
            event=type(proposal).__name__, correlation_id=identity.request_id, tenant=identity.tenant,
            event_id=named_event_id(identity.request_id, "idempotency", request.source.partition, request.source.offset),
        )  # fmt: skip
        self._ports.failpoints.reach("inference.before_claim")
        record = Outgoing(topic=IDEMPOTENCY, key=asked.key.encode(), event=proposal, headers=headers)
        await publish_until_done(self._ports.publisher, [record], INFERENCE)
        await read_back
        self._ports.failpoints.reach("inference.after_claim")
        return self._keys.standing(asked, identity.request_id, self._ports.clock.now_ms())

    def _proposal(self, request: KeyedRequest, out: Sequence[Outgoing]) -> IdempotencyKeyClaimed | IdempotencyKeyAnswered | None:
        now, deadline, identity = self._ports.clock.now_ms(), request.admitted.deadline_ms, request.admitted.request
        events = [o.event for o in out]
        for event in events:
            if isinstance(event, InferenceCompleted):  # beside it there may be the order to check it
                return known_answer(request.asked, event, deadline, now)
        if any(isinstance(event, DeepLearningRequested) for event in events):
            return claim(request.asked, identity.tenant, identity.request_id, deadline, now)
        return None

    async def follow_forever(self) -> None:
        """Fold the topic from as far back as a key may still be in use."""
        since = self._ports.clock.now_ms() - KEPT_MS - GRACE_MS - self._ports.max_deadline_ms
        follower: LogFollower | None = None
        forgotten = since
        while True:
            try:
                follower = follower or await self._ports.log.follow([IDEMPOTENCY], None, since)
                for record in await follower.next(200):
                    await self._fold(record)
                if follower.caught_up():
                    self._caught_up.set()
            except RetryableError as error:
                log.warning("keys_wait reason=%s", error)
                await asyncio.sleep(0.5)
            now = self._ports.clock.now_ms()
            if now - forgotten > _FORGET_MS:
                forgotten = now
                self._keys.forget(now)

    async def _fold(self, record: LogRecord) -> None:
        event = await own_event(self._ports.codec, record)
        if not isinstance(event, IdempotencyKeyClaimed | IdempotencyKeyAnswered):
            return
        self._keys.fold(event)
        for waiting in self._read_back.pop((event.key, event.request_id), ()):
            waiting.set_result(None)


def _response(request: KeyedRequest, answer: IdempotencyKeyAnswered, now_ms: int) -> InferenceCompleted:
    """The response that was given before, as the final event of this request."""
    r = request.admitted.request
    return InferenceCompleted(
        request_id=r.request_id, tenant=r.tenant, model=answer.model, tier="idempotency",
        reason=f"its idempotency key was answered before, by the tier {answer.tier}", text=answer.text,
        finish_reason=answer.finish_reason, prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens,
        requested_at=r.requested_at, admitted_at=now_ms, completed_at=now_ms, source=request.source, embedding=answer.embedding,
        confidence=answer.confidence, shared_with=answer.request_id if answer.request_id != r.request_id else None,
    )  # fmt: skip
