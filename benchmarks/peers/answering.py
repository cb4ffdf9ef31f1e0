"""What the echoes do with one record: parse its headers, decode it, and encode an answer of the same shape as a known one."""

from __future__ import annotations

import time
from typing import Any

from connectors.registry import ConfluentRegistry
from infra.settings import Settings
from schemas.codec import Codec
from schemas.events import InferenceCompleted, InferenceRequested, Position
from schemas.headers import RawHeaders, RecordHeaders
from schemas.ids import final_event_id
from streams.topics import REQUESTS, RESPONSES


class Answering:
    """Makes the echo's answer, as large and with as many headers as the inference service's."""

    topic = RESPONSES

    def __init__(self, settings: Settings) -> None:
        self._codec = Codec(ConfluentRegistry(settings.registry))
        self._codec.prepare(RESPONSES, InferenceCompleted)
        self._codec.prepare(REQUESTS, InferenceRequested)

    def answer(self, value: bytes, raw_headers: Any) -> tuple[bytes, RawHeaders, int]:
        """Bytes, headers and partition of the answer to a request record."""
        headers = RecordHeaders.parse(raw_headers.items() if isinstance(raw_headers, dict) else raw_headers)
        request = self._codec.decode(value)
        assert isinstance(request, InferenceRequested) and headers.reply_to is not None
        now = time.time_ns() // 1_000_000
        event = InferenceCompleted(
            request_id=request.request_id, tenant=request.tenant, model=request.model, tier="exact", reason="an echo answers at once",
            text="The capital of France is Paris.", finish_reason="stop", prompt_tokens=37, completion_tokens=8, entry_id=None,
            requested_at=request.requested_at, admitted_at=now, completed_at=now,
            source=Position(topic=REQUESTS, partition=0, offset=0),
        )  # fmt: skip
        out = RecordHeaders(
            event="InferenceCompleted", event_id=final_event_id(request.tenant, request.request_id), causation_id=headers.event_id,
            correlation_id=request.request_id, tenant=request.tenant,
        )  # fmt: skip
        return self._codec.encode(RESPONSES, event), out.raw(), headers.reply_to.partition
