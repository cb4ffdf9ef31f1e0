"""Groups tokens of each request over a short while, so that the log isn't one record a token. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.events import TokensGenerated
from streams.engine import GeneratedChunk


@dataclass(slots=True)
class TokenGroup:
    """Collects the chunks of one placement. The first chunk goes out at once: the time to the first token is what a reader feels."""

    request_id: str
    epoch: int
    window_ms: int
    _chunks: list[GeneratedChunk]
    _opened_ms: int = 0

    @classmethod
    def open(cls, request_id: str, epoch: int, window_ms: int) -> TokenGroup:
        return cls(request_id, epoch, window_ms, [])

    def add(self, chunk: GeneratedChunk, now_ms: int) -> TokensGenerated | None:
        """Take a chunk; the group to publish now, if it is due."""
        if not self._chunks:
            self._opened_ms = now_ms
        self._chunks.append(chunk)
        due = chunk.first_index == 0 or chunk.finish is not None or now_ms - self._opened_ms >= self.window_ms
        return self.flush(now_ms) if due else None

    def wait_ms(self, now_ms: int) -> int | None:
        """How long until what is held is due; None where nothing is held."""
        return max(0, self._opened_ms + self.window_ms - now_ms) if self._chunks else None

    def flush(self, now_ms: int) -> TokensGenerated | None:
        """What is held, as one event; None where nothing is."""
        chunks, self._chunks = self._chunks, []
        ids = tuple(token for chunk in chunks for token in chunk.token_ids)
        text = "".join(chunk.text for chunk in chunks)
        if not ids and not text:
            return None
        return TokensGenerated(
            request_id=self.request_id, epoch=self.epoch, first_index=chunks[0].first_index, token_ids=ids, text=text, generated_at=now_ms
        )
