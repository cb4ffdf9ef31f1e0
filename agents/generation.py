"""One placement on a worker, from its dispatch to its final event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from schemas.events import (
    DeepLearningRequested,
    GenerationFinished,
    GenerationStarted,
    InferenceCompleted,
    InferenceFailed,
    RequestDispatched,
    TokensGenerated,
)
from schemas.headers import RecordHeaders
from schemas.ids import final_event_id, named_event_id
from schemas.record import Record
from streams.acknowledging import publish_until_done
from streams.engine import ChatMessage, GeneratedChunk, GenerationRequest
from streams.errors import HeadraceError, PoisonError
from streams.ports import Outgoing
from streams.token_groups import TokenGroup
from streams.topics import DEEP_LEARNING, DL_RESULTS, LIFECYCLE, RESPONSES, TOKENS

if TYPE_CHECKING:
    from agents.deep_learning import DeepLearningPorts

log = logging.getLogger(__name__)

_STOP_EARLY_S = 0.5  # a step or two, so that the failure is on the log before the deadline


class Generation:
    """Runs one dispatched request in the engine and publishes what comes of it."""

    def __init__(self, ports: DeepLearningPorts, dispatch: RequestDispatched, traceparent: str) -> None:
        assert dispatch.request is not None
        self._ports = ports
        self._dispatch = dispatch
        self._request: DeepLearningRequested = dispatch.request
        self._traceparent = traceparent
        self._group = TokenGroup.open(dispatch.request_id, dispatch.epoch, ports.token_group_ms)
        self._text: list[str] = []
        self._tokens = 0
        self._started_ms: int | None = None
        self._last: GeneratedChunk | None = None
        # A check's client was answered long ago: all that anybody wants to know is what GenerationFinished says.
        self._silent = self._request.check is not None and self._request.check.served

    async def run(self) -> None:
        """Generate to the end. Whatever goes wrong ends as an event."""
        try:
            await self._generate()
        except PoisonError as error:
            await self._fail(error.code, str(error), error.remedy, retryable=False)
        except HeadraceError as error:  # another worker may do better
            log.warning("generation_returned request_id=%s reason=%s", self._request.request_id, error)
            await self._publish([self._finished("returned", "error")])
        except Exception as error:
            log.exception("generation_failed request_id=%s", self._request.request_id)
            remedy = f"send it again; if it fails again, see: headrace logs {self._ports.worker}"
            await self._fail("internal", f"generating raised {error!r}", remedy, retryable=True)

    async def _generate(self) -> None:
        async for chunk in _with_gaps(self._ports.engine.generate(self._engine_request()), self._gap_s):
            now = self._ports.clock.now_ms()
            if chunk is None:
                await self._tell(self._group.flush(now))
                continue
            self._last = chunk
            self._text.append(chunk.text)
            self._tokens += len(chunk.token_ids)
            self._ports.metrics.tokens.inc(len(chunk.token_ids))
            if self._started_ms is None:
                await self._tell_start(chunk, now)
            self._ports.failpoints.reach("deep-learning.token")
            await self._tell(self._group.add(chunk, now))
        await self._end()

    def _gap_s(self) -> float | None:
        wait = self._group.wait_ms(self._ports.clock.now_ms())
        return None if wait is None else wait / 1000

    def _engine_request(self) -> GenerationRequest:
        r, p = self._request, self._request.parameters
        assert p.max_tokens is not None and p.seed is not None, "admission fills these in"
        return GenerationRequest(
            request_id=f"{r.request_id}/{self._dispatch.epoch}", messages=tuple(ChatMessage(m.role, m.content) for m in r.messages),
            max_tokens=p.max_tokens, temperature=p.temperature, top_p=p.top_p, seed=p.seed, stop=p.stop,
            deadline=r.deadline_at / 1000 - _STOP_EARLY_S, labels=p.labels,
        )  # fmt: skip

    async def _tell_start(self, chunk: GeneratedChunk, now: int) -> None:
        self._started_ms = now
        self._ports.metrics.first_token_seconds.observe(max(0, now - self._dispatch.dispatched_at) / 1000)
        if self._silent:
            return
        event = GenerationStarted(
            request_id=self._request.request_id, worker=self._ports.worker, epoch=self._dispatch.epoch,
            batch_size=chunk.batch_size, prompt_tokens=chunk.prompt_tokens, started_at=now,
        )  # fmt: skip
        await self._publish([self._record(LIFECYCLE, event, "started", self._dispatch.epoch)])

    async def _tell(self, tokens: TokensGenerated | None) -> None:
        if tokens is not None and not self._silent:
            topic = TOKENS if self._request.reply_to.topic == RESPONSES else self._request.reply_to.topic
            await self._publish([self._record(topic, tokens, "tokens", tokens.epoch, tokens.first_index)])

    async def _end(self) -> None:
        last = self._last
        finish = last.finish if last is not None else None
        if last is None or finish is None:
            raise RuntimeError("the engine's stream ended without a finish reason")
        if finish in ("deadline", "cancelled"):
            code = "deadline_exceeded" if finish == "deadline" else finish
            reason = f"generation stopped after {self._tokens} tokens: {finish}"
            await self._fail(code, reason, "allow fewer tokens or a later deadline", retryable=True)
            return
        r, now = self._request, self._ports.clock.now_ms()
        event = InferenceCompleted(
            request_id=r.request_id, tenant=r.tenant, model=r.model, tier="deep-learning", reason=self._dispatch.reason,
            text="".join(self._text), finish_reason=finish, prompt_tokens=last.prompt_tokens, completion_tokens=self._tokens,
            entry_id=r.entry_id, requested_at=r.requested_at, admitted_at=r.admitted_at, dispatched_at=self._dispatch.dispatched_at,
            started_at=self._started_ms, first_token_at=self._started_ms, completed_at=now, worker=self._ports.worker,
            epoch=self._dispatch.epoch, source=r.source,
        )  # fmt: skip
        if not self._silent:
            self._ports.metrics.request_seconds.labels("deep-learning").observe(max(0, now - r.requested_at) / 1000)
        await self._publish_end(event, "completed", finish)

    async def _fail(self, code: str, reason: str, remedy: str, *, retryable: bool) -> None:
        r = self._request
        event = InferenceFailed(
            request_id=r.request_id, tenant=r.tenant, code=code, reason=reason, retryable=retryable, remedy=remedy, stage=DEEP_LEARNING,
            epoch=self._dispatch.epoch, requested_at=r.requested_at, failed_at=self._ports.clock.now_ms(), source=r.source,
        )  # fmt: skip
        await self._publish_end(event, "failed", "error")

    async def _publish_end(self, final: InferenceCompleted | InferenceFailed, outcome: str, finish: str) -> None:
        """The final event, where a client waits for one, is durable before the dispatcher may forget the request."""
        self._ports.failpoints.reach("deep-learning.before_produce")
        if not self._silent:
            reply_to = self._request.reply_to
            headers = self._headers(final, final_event_id(final.tenant, final.request_id))
            key = final.request_id.encode()
            await self._publish([Outgoing(topic=reply_to.topic, partition=reply_to.partition, key=key, event=final, headers=headers)])
        self._ports.failpoints.reach("deep-learning.after_produce")
        await self._publish([self._finished(outcome, finish)])

    def _finished(self, outcome: str, finish: str) -> Outgoing:
        r, done = self._request, outcome == "completed"
        event = GenerationFinished(
            request_id=r.request_id, tenant=r.tenant, model=r.model, worker=self._ports.worker, epoch=self._dispatch.epoch, outcome=outcome,
            text="".join(self._text) if done else "", finish_reason=finish, prompt_tokens=self._last.prompt_tokens if self._last else 0,
            completion_tokens=self._tokens, entry_id=r.entry_id if done else None, finished_at=self._ports.clock.now_ms(),
            task=r.task, question=r.question, check=r.check, guess=r.guess, idempotency=r.idempotency,
        )  # fmt: skip
        event_id = named_event_id(r.request_id, "finished", self._dispatch.epoch)
        return Outgoing(topic=DL_RESULTS, key=r.model.encode(), event=event, headers=self._headers(event, event_id))

    def _record(self, topic: str, event: Record, *name: str | int) -> Outgoing:
        r = self._request
        headers = self._headers(event, named_event_id(r.request_id, *name))
        partition = None if topic == LIFECYCLE else r.reply_to.partition
        return Outgoing(topic=topic, partition=partition, key=r.request_id.encode(), event=event, headers=headers)

    def _headers(self, event: Record, event_id: str) -> RecordHeaders:
        r, trace = self._request, self._traceparent
        if isinstance(event, InferenceCompleted | InferenceFailed):
            told: dict[str, str | int | float] = {"worker": self._ports.worker, "epoch": self._dispatch.epoch, "tokens": self._tokens}
            trace = self._ports.tracing.hop(DEEP_LEARNING, trace, self._dispatch.dispatched_at, told)
        return RecordHeaders(
            event=type(event).__name__, event_id=event_id, correlation_id=r.request_id, tenant=r.tenant, traceparent=trace,
            causation_id=named_event_id(r.request_id, "dispatched", self._dispatch.epoch), deadline_ms=r.deadline_at,
        )  # fmt: skip

    async def _publish(self, records: list[Outgoing]) -> None:
        await publish_until_done(self._ports.publisher, records, DEEP_LEARNING)


async def _with_gaps(chunks: AsyncIterator[GeneratedChunk], gap_s: Callable[[], float | None]) -> AsyncIterator[GeneratedChunk | None]:
    """The chunks, and None whenever `gap_s()` seconds pass without one (None: wait however long)."""
    pending: asyncio.Future[GeneratedChunk] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(chunks))
            done, _ = await asyncio.wait([pending], timeout=gap_s())
            if not done:
                yield None
                continue
            try:
                chunk = pending.result()
            except StopAsyncIteration:
                return
            finally:
                pending = None
            yield chunk
    finally:
        if pending is not None:
            pending.cancel()
