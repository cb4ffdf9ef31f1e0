"""What engine tests share: requests, collecting an answer, and the factories of all engines that keep the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.engines.torch_engine import TorchEngine
from streams.engine import ChatMessage, GeneratedChunk, GenerationEngine, GenerationRequest

FOREVER = 4e9  # seconds since the epoch: a deadline in 2096

# name -> (folder, slots, clock) -> engine that is not started. An engine that joins here runs the whole contract.
ENGINES: dict[str, Callable[[Path, int, Callable[[], float]], GenerationEngine]] = {
    "torch": lambda folder, slots, clock: TorchEngine("tiny", folder, "cpu", slots, 1, clock=clock),
}


def request(content: str, **changes: Any) -> GenerationRequest:
    """A greedy request of 24 tokens, with `changes`."""
    fields: dict[str, Any] = {
        "request_id": content,
        "messages": (ChatMessage("user", content),),
        "max_tokens": 24,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 1,
        "stop": (),
        "deadline": FOREVER,
    }
    return GenerationRequest(**(fields | changes))


@dataclass
class Answer:
    """All chunks of one request; `error` instead of a finish where it failed."""

    chunks: list[GeneratedChunk] = field(default_factory=list)
    error: Exception | None = None

    @property
    def token_ids(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def finish(self) -> str | None:
        return self.chunks[-1].finish if self.chunks else None


async def answer(engine: GenerationEngine, wanted: GenerationRequest, after: Callable[[Answer], None] = lambda _: None) -> Answer:
    """Run one request to its end; `after` sees the answer after each chunk. Checks what holds for every answer."""
    got = Answer()
    try:
        async for chunk in engine.generate(wanted):
            assert got.finish is None, "nothing follows the finish"
            assert chunk.first_index == len(got.token_ids)
            got.chunks.append(chunk)
            after(got)
    except Exception as error:
        got.error = error
    assert (got.error is None) == (got.finish is not None)
    return got


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until `condition` holds."""
    while not condition():  # noqa: ASYNC110  # a condition of the engine has no event to wait for
        await asyncio.sleep(0.001)
