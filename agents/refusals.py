"""Final events and dead letters for what gets no answer, the same wherever it is refused."""

from __future__ import annotations

from schemas.events import DeadLettered, Header, InferenceFailed, InferenceRejected, InferenceRequested, Position
from schemas.headers import RecordHeaders
from schemas.ids import derived_event_id, final_event_id, uuid7_ms
from streams.admission import AdmissionLimits, Admitted, reply_position
from streams.errors import HeadraceError
from streams.ports import Clock, LogRecord, Outgoing
from streams.topics import DEAD_LETTERS

_UNDECODABLE_REMEDY = "encode with the Confluent Avro format and a schema registered for the topic (headrace schemas check)"
_INTERNAL_REMEDY = "send it again; if it fails again, look at: headrace dead-letters"


class Refusals:
    """Makes the records that end a request without an answer, and keep its bytes."""

    def __init__(self, service: str, limits: AdmissionLimits, clock: Clock) -> None:
        self._service = service
        self._limits = limits
        self._clock = clock

    def rejected(self, record: LogRecord, headers: RecordHeaders, request: InferenceRequested | None, error: Exception) -> list[Outgoing]:
        """A request that was refused: a dead letter where it could not be read, a final event where its id is known."""
        code, retryable, remedy = _told(error, "undecodable" if request is None else "internal")
        out: list[Outgoing] = []
        request_id = next((i for i in (request.request_id if request else "", headers.correlation_id) if _is_request_id(i)), "")
        if request is None or not isinstance(error, HeadraceError) or not request_id:  # what can't be answered is kept
            out.append(self.dead_letter(record, code, str(error), remedy))
        if request_id:
            tenant = request.tenant if request is not None else headers.tenant
            event = InferenceRejected(
                request_id=request_id, tenant=tenant, code=code, reason=str(error), retryable=retryable, remedy=remedy,
                requested_at=request.requested_at if request is not None else None,
                rejected_at=self._clock.now_ms(), source=_position(record),
            )  # fmt: skip
            out.append(self._final(headers, event))
        return out

    def failed(self, record: LogRecord, headers: RecordHeaders, admitted: Admitted, error: Exception) -> list[Outgoing]:
        """An admitted request whose handling raised."""
        code, retryable, remedy = _told(error, "internal")
        request = admitted.request
        event = InferenceFailed(
            request_id=request.request_id, tenant=request.tenant, code=code, reason=str(error), retryable=retryable, remedy=remedy,
            stage=self._service, requested_at=request.requested_at, failed_at=self._clock.now_ms(), source=_position(record),
        )  # fmt: skip
        return [self.dead_letter(record, code, str(error), remedy), self._final(headers, event)]

    def dead_letter(self, record: LogRecord, code: str, reason: str, remedy: str, attempts: int = 1) -> Outgoing:
        """The record as it was, with why it was set aside."""
        origin = _position(record)
        event = DeadLettered(
            origin=origin, origin_timestamp=record.timestamp_ms, key=record.key, value=record.value,
            headers=tuple(Header(name=n, value=v) for n, v in record.headers or ()), service=self._service,
            code=code, reason=reason, remedy=remedy, attempts=attempts, dead_lettered_at=self._clock.now_ms(),
        )  # fmt: skip
        event_id = derived_event_id(origin.topic, origin.partition, origin.offset, -2)
        headers = RecordHeaders(event="DeadLettered", event_id=event_id, correlation_id=RecordHeaders.parse(record.headers).correlation_id)
        return Outgoing(topic=DEAD_LETTERS, key=f"{origin.topic}/{origin.partition}".encode(), event=event, headers=headers)

    def _final(self, headers: RecordHeaders, event: InferenceRejected | InferenceFailed) -> Outgoing:
        reply_to = reply_position(event.request_id, event.tenant, headers.reply_to, self._limits)
        told = RecordHeaders(
            event=type(event).__name__,
            event_id=final_event_id(event.tenant, event.request_id),
            causation_id=headers.event_id,
            correlation_id=event.request_id,
            tenant=event.tenant,
            traceparent=headers.traceparent,
            deadline_ms=headers.deadline_ms,
        )
        return Outgoing(topic=reply_to.topic, partition=reply_to.partition, key=event.request_id.encode(), event=event, headers=told)


def _told(error: Exception, code: str) -> tuple[str, bool, str]:
    """Code, whether to try again, and remedy."""
    if isinstance(error, HeadraceError):
        return error.code, error.retryable, error.remedy
    return (code, False, _UNDECODABLE_REMEDY) if code == "undecodable" else (code, True, _INTERNAL_REMEDY)


def _is_request_id(value: str) -> bool:
    try:
        uuid7_ms(value)
    except ValueError:
        return False
    return True


def _position(record: LogRecord) -> Position:
    return Position(topic=record.topic, partition=record.partition, offset=record.offset)
