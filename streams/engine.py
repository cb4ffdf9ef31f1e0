"""The port of the deep-learning service: an engine that generates tokens for many requests at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from streams.errors import PoisonError, RetryableError

FinishReason = Literal["stop", "length", "deadline", "cancelled"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a chat: `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What an engine needs to generate.

    `deadline` is in seconds since the epoch: the engine stops there with finish reason "deadline".
    `seed` keys a counter-based sampler: token i of a request depends on (seed, i) and the logits alone, so that another
    worker that starts anew draws the same tokens. `temperature` 0 is greedy.
    With `labels` the answer is one of them, word for word, and ends with finish reason "stop" where the label does: at each step
    only tokens that lead to a label are chosen from. `max_tokens` and `stop` then say nothing, since half a label is no answer.
    """

    request_id: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    deadline: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GeneratedChunk:
    """What one request gained in one step.

    `text` is what may be shown now: incomplete UTF-8 and a possible beginning of a stop string are held back, so it can be
    empty while `token_ids` is not. The last chunk has a `finish`; its text flushes what was held back.
    """

    first_index: int
    token_ids: tuple[int, ...]
    text: str
    prompt_tokens: int
    batch_size: int
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class EngineCapacity:
    """How full an engine is, and whether it works.

    `slots` is the largest batch; `in_flight` counts running and waiting requests; `tokens_in_flight` are prompt tokens still to be
    computed. `trouble` says why the engine can't go on by itself, "" where it can: its process should then end.
    """

    slots: int
    in_flight: int
    tokens_in_flight: int
    prefill_tokens_per_s: float
    service_s: float
    trouble: str = ""


class EngineBusy(RetryableError):
    """The engine has no room. Send the request to another worker, or later."""


class PromptTooLong(PoisonError):
    """The prompt and the allowed answer do not fit the model's context. Shorten the messages or lower max_tokens."""


class GenerationEngine(Protocol):
    """Generates for several requests in one batch.

    `generate` yields chunks as they come and ends after the one with a `finish`. It raises a `PoisonError` for a request that
    can never succeed and a `RetryableError` for one that another worker may serve. `cancel` frees the slot at the next step;
    the stream then ends with finish "cancelled". Closing the iterator early cancels too.
    """

    model: str
    device: str

    async def start(self) -> None: ...
    def generate(self, request: GenerationRequest) -> AsyncIterator[GeneratedChunk]: ...
    def cancel(self, request_id: str) -> None: ...
    def capacity(self) -> EngineCapacity: ...
    async def close(self) -> None: ...
