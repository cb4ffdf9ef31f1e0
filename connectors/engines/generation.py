"""One request inside an engine: what it was, how far it is, and the way back to who asked for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from connectors.engines.label_trie import LabelTrie
from connectors.engines.shown_text import ShownText
from streams.engine import FinishReason, GeneratedChunk, GenerationRequest
from streams.errors import HeadraceError


@dataclass(slots=True, eq=False)
class Generation:
    """State of a request in the engine.

    The asyncio side makes it, sets `cancelled`, and reads `chunks`. Everything else belongs to the decode thread once the
    request was handed over. `prefilled` counts prompt tokens that are computed; `trie` is there where the request has labels.
    """

    request: GenerationRequest
    chunks: asyncio.Queue[GeneratedChunk | HeadraceError] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    prompt: list[int] = field(default_factory=list)
    shown: ShownText | None = None
    trie: LabelTrie | None = None
    prefilled: int = 0
    cache: Any = None
    token_ids: list[int] = field(default_factory=list)
    started: float = 0.0

    def finish_before_step(self, now: float) -> FinishReason | None:
        """Why this request must not take part in another step."""
        if self.cancelled:
            return "cancelled"
        return "deadline" if now >= self.request.deadline else None

    def accept(self, token_id: int, end_ids: frozenset[int], batch_size: int) -> GeneratedChunk:
        """Take one more token and say what may be shown of it, and whether the answer ends with it."""
        assert self.shown is not None
        self.token_ids.append(token_id)
        finish: FinishReason | None = None
        text = ""
        if token_id in end_ids:
            finish = "stop"
        else:
            text = self.shown.push(token_id)
            if self.shown.stopped:
                finish = "stop"
            elif self.trie is not None:
                finish = "stop" if self.trie.complete(self.token_ids) else None
            elif len(self.token_ids) >= self.request.max_tokens:
                finish = "length"
        if finish and not self.shown.stopped:
            text += self.shown.flush()
            finish = "stop" if self.shown.stopped else finish
        first = len(self.token_ids) - 1
        return GeneratedChunk(first, (token_id,), text, len(self.prompt), batch_size, finish)

    def end(self, finish: FinishReason, batch_size: int) -> GeneratedChunk:
        """The last chunk of an answer that ends between steps; shows what was held back."""
        text = self.shown.flush() if self.shown else ""
        return GeneratedChunk(len(self.token_ids), (), text, len(self.prompt), batch_size, finish)
