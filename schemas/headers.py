"""Record headers: ids that tie events together, W3C trace context, deadline, and where replies go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from schemas.events import Position

RawHeaders = list[tuple[str, bytes]]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # https://www.w3.org/TR/trace-context/


class RecordHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """The headers of one record. A bare producer may leave out all but `correlation_id`.

    event: short name of the event, so that a reader can tell it without decoding. event_id: see `schemas.ids`.
    causation_id: id of the event that caused this one. correlation_id: the request's id. tenant: its tenant.
    traceparent: W3C trace context. deadline_ms: when the request ends unanswered. reply_to: topic and partition for replies.
    """

    event: str = ""
    event_id: str = ""
    causation_id: str = ""
    correlation_id: str = ""
    tenant: str = ""
    traceparent: str = ""
    deadline_ms: int | None = None
    reply_to: Position | None = None

    def raw(self) -> RawHeaders:
        """As Kafka carries them; what is empty is left out."""
        pairs = (
            ("event", self.event),
            ("event-id", self.event_id),
            ("causation-id", self.causation_id),
            ("correlation-id", self.correlation_id),
            ("tenant", self.tenant),
            ("traceparent", self.traceparent),
            ("deadline", "" if self.deadline_ms is None else str(self.deadline_ms)),
            ("reply-to", "" if self.reply_to is None else f"{self.reply_to.topic}/{self.reply_to.partition}"),
        )
        return [(name, value.encode()) for name, value in pairs if value]

    @classmethod
    def parse(cls, raw: Iterable[tuple[str, bytes | None]] | Mapping[str, bytes | None] | None) -> RecordHeaders:
        """Read what is readable: headers come from any producer, so a broken one counts as absent and never raises."""
        pairs = raw.items() if isinstance(raw, Mapping) else raw or ()  # Faust gives a mapping, the clients give pairs
        text = {name: value.decode("utf-8", "replace") for name, value in pairs if value}
        trace = text.get("traceparent", "")
        return cls(
            event=text.get("event", ""),
            event_id=text.get("event-id", ""),
            causation_id=text.get("causation-id", ""),
            correlation_id=text.get("correlation-id", ""),
            tenant=text.get("tenant", ""),
            traceparent=trace if _TRACEPARENT.fullmatch(trace) else "",
            deadline_ms=_integer(text.get("deadline", "")),
            reply_to=_reply_to(text.get("reply-to", "")),
        )


def _integer(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _reply_to(text: str) -> Position | None:
    topic, slash, partition = text.rpartition("/")
    if not (slash and topic and partition.isascii() and partition.isdigit() and len(partition) < 6):
        return None
    return Position(topic=topic, partition=int(partition), offset=-1)
