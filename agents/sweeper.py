"""The sweeper: fails what is overdue when nobody else is left to. A plain loop with state from the log.

Any number may run: a final event's id is the same whoever makes it, and readers take the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.codec import Codec, UndecodableRecord
from schemas.events import InferenceFailed, InferenceRequested, Position
from schemas.headers import RecordHeaders
from schemas.ids import final_event_id, uuid7_ms
from streams.acknowledging import publish_until_done
from streams.admission import AdmissionLimits, deadline_of, reply_position
from streams.errors import RetryableError
from streams.failpoints import Failpoints
from streams.ports import Clock, Log, LogFollower, LogRecord, Outgoing, Publisher
from streams.sweeping import Expected, Sweep
from streams.telemetry import Metrics, Tracing
from streams.topics import FINALS, REQUESTS, RESPONSES, SWEEPER, reply_topic

log = logging.getLogger(__name__)

_GRACE_MS = 300  # the services fail a request shortly before its deadline; only what they missed is ours
_SWEEP_MS = 200
_FINAL_NAMES = frozenset(cls.__name__ for cls in FINALS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweeperPorts:
    """What the sweeper needs of the world."""

    publisher: Publisher
    log: Log
    codec: Codec
    clock: Clock
    limits: AdmissionLimits
    metrics: Metrics
    tracing: Tracing
    failpoints: Failpoints


def register(app: Any, ports: SweeperPorts) -> SweeperService:
    """Add the loop."""
    service = SweeperService(ports)

    @app.task
    async def sweeping() -> None:
        await service.sweep_forever()

    return service


class SweeperService:
    """Reads all requests and all final events since the longest deadline ago, and sweeps once it has caught up."""

    def __init__(self, ports: SweeperPorts) -> None:
        self._ports = ports
        self._sweep = Sweep(memory_ms=ports.limits.max_deadline_ms)
        self.ready = False

    async def sweep_forever(self) -> None:
        """Follow and sweep until cancelled."""
        topics = [REQUESTS, RESPONSES, *(reply_topic(t) for t in self._ports.limits.tenants)]
        since = self._ports.clock.now_ms() - self._ports.limits.max_deadline_ms
        while True:
            try:
                follower = await self._ports.log.follow(topics, None, since)
                break
            except RetryableError as error:
                log.warning("sweeper_waits reason=%s", error)
                await asyncio.sleep(1.0)
        while True:
            try:
                await self._turn(follower)
            except RetryableError as error:
                log.warning("sweeper_waits reason=%s", error)
                await asyncio.sleep(0.5)

    async def _turn(self, follower: LogFollower) -> None:
        for record in await follower.next(_SWEEP_MS):
            await self._fold(record)
        if not follower.caught_up():  # a final event may still be unread
            return
        self.ready = True
        now = self._ports.clock.now_ms()
        self._sweep.forget(now)
        overdue = self._sweep.overdue(now, _GRACE_MS)
        if overdue:
            log.warning("sweeping count=%s", len(overdue))
            self._ports.metrics.swept.inc(len(overdue))
            self._ports.failpoints.reach("sweeper.before_produce")
            await publish_until_done(self._ports.publisher, self._failures(overdue, now), SWEEPER)
            self._ports.failpoints.reach("sweeper.after_produce")

    async def _fold(self, record: LogRecord) -> None:
        headers = RecordHeaders.parse(record.headers)
        if record.topic != REQUESTS:
            if headers.event in _FINAL_NAMES:
                self._sweep.ended(headers.correlation_id, self._ports.clock.now_ms())
            return
        if not self._ports.codec.knows(record.value):  # its headers will do: a question for each would let garbage hold up the sweep
            expected = self._by_headers(record, headers)
        else:
            request = self._decoded(record.value)
            expected = self._by_headers(record, headers) if request is None else self._expected(record, headers, request)
        if expected is not None:
            self._sweep.requested(expected)

    def _decoded(self, value: bytes | None) -> InferenceRequested | None:
        try:
            event = self._ports.codec.decode(value)
        except (UndecodableRecord, OSError):
            return None
        return event if isinstance(event, InferenceRequested) else None

    def _by_headers(self, record: LogRecord, headers: RecordHeaders) -> Expected | None:
        """A request that could not be read, as far as its headers tell: the inference service names its final event by them too."""
        try:
            requested_at = uuid7_ms(headers.correlation_id)
        except ValueError:
            return None
        limits = self._ports.limits
        deadline = deadline_of(None, headers.deadline_ms, requested_at, limits, record.timestamp_ms)
        return Expected(
            request_id=headers.correlation_id, tenant=headers.tenant, deadline_ms=max(deadline, record.timestamp_ms),
            reply_to=reply_position(headers.correlation_id, headers.tenant, headers.reply_to, limits),
            source=Position(topic=record.topic, partition=record.partition, offset=record.offset),
            requested_at=requested_at, traceparent=headers.traceparent,
        )  # fmt: skip

    def _expected(self, record: LogRecord, headers: RecordHeaders, request: InferenceRequested) -> Expected:
        limits = self._ports.limits
        # The record's own time stands for the moment of admission, so that the deadline is the same after every restart.
        deadline = deadline_of(request.deadline_at, headers.deadline_ms, request.requested_at, limits, record.timestamp_ms)
        return Expected(
            request_id=request.request_id, tenant=request.tenant, deadline_ms=max(deadline, record.timestamp_ms),
            reply_to=reply_position(request.request_id, request.tenant, headers.reply_to, limits),
            source=Position(topic=record.topic, partition=record.partition, offset=record.offset),
            requested_at=request.requested_at, traceparent=headers.traceparent,
        )  # fmt: skip

    def _failures(self, overdue: Sequence[Expected], now: int) -> list[Outgoing]:
        return [self._failure(expected, now) for expected in overdue]

    def _failure(self, expected: Expected, now: int) -> Outgoing:
        event = InferenceFailed(
            request_id=expected.request_id, tenant=expected.tenant, code="deadline_exceeded",
            reason=f"no service ended it by its deadline, {now - expected.deadline_ms} ms ago", retryable=True,
            remedy="send it again; if it happens again, see: headrace doctor", stage=SWEEPER,
            requested_at=expected.requested_at, failed_at=now, source=expected.source,
        )  # fmt: skip
        headers = RecordHeaders(
            event="InferenceFailed", event_id=final_event_id(expected.tenant, expected.request_id), correlation_id=expected.request_id,
            tenant=expected.tenant, deadline_ms=expected.deadline_ms,
            traceparent=self._ports.tracing.hop(SWEEPER, expected.traceparent, expected.deadline_ms, {"request_id": expected.request_id}),
        )  # fmt: skip
        return Outgoing(
            topic=expected.reply_to.topic, partition=expected.reply_to.partition, key=expected.request_id.encode(),
            event=event, headers=headers,
        )  # fmt: skip
