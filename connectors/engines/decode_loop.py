"""Continuous batching: at each step, prompts are prefilled a part at a time, and every running request gains one token.

Iteration-level scheduling after Orca (Yu et al., OSDI 2022), with prompts cut into parts as in Sarathi-Serve (Agrawal et al.,
OSDI 2024), so that a long prompt slows the running answers instead of stopping them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import structlog
import torch
from transformers.cache_utils import DynamicCache

from connectors.engines.causal_lm import CausalLm
from connectors.engines.generation import Generation
from connectors.engines.kv_batch import KvBatch
from connectors.engines.rates import Rates
from connectors.engines.sampling import draw, only, uniform
from connectors.engines.shown_text import ShownText
from streams.engine import GeneratedChunk
from streams.errors import HeadraceError, RetryableError

# Prompt tokens per step. Fewer let running answers go on more evenly, more prefill faster: each part reads all weights once.
PREFILL_PART = 256

Delivery = tuple[Generation, GeneratedChunk | HeadraceError]
_log = structlog.get_logger(__name__)


class StepFailed(RetryableError):
    """The model failed under this request (out of memory, a kernel's error). Send it to another worker, or again later."""

    def __init__(self, error: Exception) -> None:
        super().__init__("engine_step_failed", f"{type(error).__name__}: {str(error)[:300]}", "send the request again")


class DecodeLoop:
    """All requests of one engine. Not thread-safe: the decode thread owns it."""

    def __init__(self, lm: CausalLm, slots: int, clock: Callable[[], float], rates: Rates) -> None:
        self._lm = lm
        self._slots = slots
        self._clock = clock
        self._rates = rates
        self._waiting: deque[Generation] = deque()
        self._prefilling: Generation | None = None
        self._running: list[Generation] = []  # in the order of the batch's rows
        self._batch = KvBatch()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until `add`."""
        return not (self._waiting or self._prefilling or self._running)

    def add(self, generation: Generation) -> None:
        """Queue a request; it joins the batch in the order of arrival."""
        stops = () if generation.request.labels else generation.request.stop
        generation.shown = ShownText(self._lm.decode, stops)
        self._waiting.append(generation)

    def step(self) -> list[Delivery]:
        """Do one step for everybody, and return what each request gained."""
        out: list[Delivery] = []
        self._end_early(out)
        self._prefill(out)
        self._decode(out)
        return out

    def _end_early(self, out: list[Delivery]) -> None:
        """Let cancelled and overdue requests go, wherever they are."""
        now, size = self._clock(), len(self._running)
        ended: set[Generation] = set()
        everybody = [*self._waiting, *self._running, *([self._prefilling] if self._prefilling else [])]
        for generation in everybody:
            if finish := generation.finish_before_step(now):
                ended.add(generation)
                out.append((generation, generation.end(finish, size)))
        if ended:
            self._waiting = deque(waiting for waiting in self._waiting if waiting not in ended)
            self._prefilling = None if self._prefilling in ended else self._prefilling
            try:
                self._leave(ended)
            except Exception as error:
                self._lose_batch(error, out)

    def _prefill(self, out: list[Delivery]) -> None:
        """Compute up to PREFILL_PART prompt tokens, of as many joiners as there are free slots."""
        room = PREFILL_PART
        while room > 0 and (generation := self._next_joiner()):
            try:
                room -= self._prefill_part(generation, room, out)
            except Exception as error:
                self._prefilling = None
                self._fail([generation], error, out)

    def _next_joiner(self) -> Generation | None:
        if self._prefilling is None and self._waiting and len(self._running) < self._slots:
            self._prefilling = self._waiting.popleft()
            self._prefilling.cache = DynamicCache()
            self._prefilling.started = time.perf_counter()
        return self._prefilling

    def _prefill_part(self, generation: Generation, room: int, out: list[Delivery]) -> int:
        """Compute the next part of a prompt; after the last, draw the first token and join the batch. Returns tokens computed."""
        part = generation.prompt[generation.prefilled : generation.prefilled + room]
        began = time.perf_counter()
        logits = self._lm.prefill(part, generation.cache)
        generation.prefilled += len(part)
        if generation.prefilled == len(generation.prompt):
            token = self._choose([generation], logits[None])[0]
            self._rates.prefilled(len(part), time.perf_counter() - began)
            if not self._take(generation, token, len(self._running) + 1, out):
                self._batch.join(generation.cache, len(generation.prompt))
                self._running.append(generation)
            generation.cache = self._prefilling = None
        else:
            self._rates.prefilled(len(part), time.perf_counter() - began)
        return len(part)

    def _decode(self, out: list[Delivery]) -> None:
        """One token for each running request."""
        if not self._running:
            return
        rows = list(self._running)
        try:
            logits = self._lm.step([generation.token_ids[-1] for generation in rows], self._batch)
            tokens = self._choose(rows, logits)
            ended = {row for row, token in zip(rows, tokens, strict=True) if self._take(row, token, len(rows), out)}
            self._leave(ended)
        except Exception as error:
            self._lose_batch(error, out)

    def _lose_batch(self, error: Exception, out: list[Delivery]) -> None:
        """Fail all that ran: some layers may hold the new column and some not, so nothing in the batch can go on."""
        told = {generation for generation, chunk in out if isinstance(chunk, GeneratedChunk) and chunk.finish}
        lost, self._running = [row for row in self._running if row not in told], []
        self._batch.clear()
        self._fail(lost, error, out)

    def _choose(self, rows: list[Generation], logits: torch.Tensor) -> list[int]:
        """Next token of each row. NaN in the logits is an error: it would be published as an answer."""
        best = logits.max(dim=-1)
        if not bool(best.values.isfinite().all()):
            raise FloatingPointError("the model computed NaN or infinity")
        tokens: list[int] = best.indices.tolist()
        for number, generation in enumerate(rows):
            wanted, row = generation.request, logits[number]
            if generation.trie is not None:
                row = only(row, generation.trie.allowed(generation.token_ids))
                tokens[number] = int(row.argmax())  # of equal ones the first, whatever else is in the batch
            if wanted.temperature > 0:
                counted = uniform(wanted.seed, len(generation.token_ids))
                tokens[number] = draw(row, wanted.temperature, wanted.top_p, counted)
        return tokens

    def _take(self, generation: Generation, token: int, size: int, out: list[Delivery]) -> bool:
        """Hand a token to its request; true where that ends it."""
        chunk = generation.accept(token, self._lm.end_ids, size)
        out.append((generation, chunk))
        if chunk.finish:
            self._rates.served(time.perf_counter() - generation.started)
        return chunk.finish is not None

    def _leave(self, ended: set[Generation]) -> None:
        """Drop rows from the batch."""
        kept = [row for row, generation in enumerate(self._running) if generation not in ended]
        if len(kept) < len(self._running):
            self._batch.keep(kept)
            self._running = [self._running[row] for row in kept]

    def _fail(self, generations: list[Generation], error: Exception, out: list[Delivery]) -> None:
        _log.error("engine step failed", requests=[generation.request.request_id for generation in generations], exc_info=error)
        out.extend((generation, StepFailed(error)) for generation in generations)
        error.__traceback__ = None  # its frames hold the tensors that memory is needed for
        self._lm.recover()
