"""The torch engine: a model in this process, generating for several requests in one batch on a thread of its own.

asyncio never waits for torch: requests go to the thread through a queue, and what a step gained comes back with one wake-up of
the event loop, however many requests are in the batch. Importing this file does not import torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from connectors.engines.generation import Generation
from connectors.engines.rates import Rates
from streams.engine import EngineBusy, EngineCapacity, GeneratedChunk, GenerationRequest, PromptTooLong
from streams.errors import PoisonError, RetryableError

if TYPE_CHECKING:
    from connectors.engines.causal_lm import CausalLm
    from connectors.engines.decode_loop import DecodeLoop, Delivery
    from connectors.engines.label_trie import LabelTrie

# Running and waiting requests per slot. Enough to refill a batch at once; whoever waits longer is better off on another worker.
IN_FLIGHT_PER_SLOT = 2
MOST_FAILURES = 5  # steps in a row: an error that sticks, as CUDA's do, is not outlived
LONGEST_STEP_S = 60.0  # far above any step on a slow CPU; a longer one hangs

_log = structlog.get_logger(__name__)


class EngineStopped(RetryableError):
    """The engine is not running: not started, closed, or its thread died. Send the request to another worker; restart this one."""

    def __init__(self, reason: str) -> None:
        super().__init__("engine_stopped", f"the engine is not running: {reason}", "send the request to another worker")


class InvalidSampling(PoisonError):
    """A sampling parameter is out of its range: max_tokens >= 1, temperature >= 0, 0 < top_p <= 1."""


class TorchEngine:
    """`GenerationEngine` on transformers.

    `model` is the name that requests use and `folder` where its Hugging Face files are. `device` is auto, cpu, cuda or cuda:N;
    after `start` the attribute says which it became. `slots` is the largest batch. `threads` 0 lets torch choose.
    """

    def __init__(
        self, model: str, folder: Path, device: str, slots: int, threads: int = 0, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.model = model
        self.device = device
        self._folder = folder
        self._slots = slots
        self._threads = threads
        self._clock = clock
        self._rates = Rates()
        self._inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._generations: set[Generation] = set()  # owned by the asyncio side
        self._stopped: str | None = "not started"
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lm: CausalLm | None = None
        self._stepped = time.monotonic()
        self._failures = 0  # steps in a row in which the model failed

    async def start(self) -> None:
        """Load the model and generate a little with it, all on the engine's thread. Raises what loading raises."""
        assert self._thread is None, "an engine starts once"
        self._loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name=f"engine-{self.model}", daemon=True)
        self._thread.start()
        await ready

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GeneratedChunk]:
        """Chunks of the answer; see the port.

        Raises EngineStopped, EngineBusy, InvalidSampling, BadMessages, BadLabels, PromptTooLong, StepFailed.
        """
        self._check_room(request)
        generation = Generation(request)
        if not self._generations:
            self._stepped = time.monotonic()  # it was idle, not hung
        self._generations.add(generation)
        handed_over = False
        try:
            generation.prompt, generation.trie = await self._encode(request)
            if self._stopped:  # while the prompt was read
                raise EngineStopped(self._stopped)
            self._inbox.put(generation)
            handed_over = True
            while True:
                chunk = await generation.chunks.get()
                if not isinstance(chunk, GeneratedChunk):
                    raise chunk
                yield chunk
                if chunk.finish:
                    return
        finally:
            generation.cancelled = True
            if not handed_over:  # else it counts until the thread let it go
                self._generations.discard(generation)

    def cancel(self, request_id: str) -> None:
        """Stop a request at the next step. Unknown ids are ignored: it may just have finished."""
        for generation in self._generations:
            if generation.request.request_id == request_id:
                generation.cancelled = True

    def capacity(self) -> EngineCapacity:
        """How full the engine is. `tokens_in_flight` are prompt tokens that still have to be computed. Takes no lock."""
        generations = list(self._generations)
        uncomputed = sum(len(generation.prompt) - generation.prefilled for generation in generations)
        rates = self._rates
        return EngineCapacity(self._slots, len(generations), uncomputed, rates.prefill_tokens_per_s, rates.service_s, self._trouble())

    def _trouble(self) -> str:
        """Why a new process would do better, or ""."""
        if self._stopped:
            return self._stopped
        if self._failures >= MOST_FAILURES:
            return f"the last {self._failures} steps failed"
        still_s = time.monotonic() - self._stepped
        return f"no step for {still_s:.0f} s" if self._generations and still_s > LONGEST_STEP_S else ""

    async def close(self) -> None:
        """End the thread after its present step; whoever still waits gets EngineStopped."""
        self._end("closed")
        if self._thread:
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    def _check_room(self, request: GenerationRequest) -> None:
        if self._stopped:
            raise EngineStopped(self._stopped)
        if request.max_tokens < 1 or not 0 <= request.temperature < math.inf or not 0 < request.top_p <= 1:
            given = f"max_tokens {request.max_tokens}, temperature {request.temperature}, top_p {request.top_p}"
            raise InvalidSampling("invalid_sampling", f"out of range: {given}", "max_tokens >= 1, temperature >= 0, 0 < top_p <= 1")
        if len(self._generations) >= IN_FLIGHT_PER_SLOT * self._slots:
            raise EngineBusy("engine_busy", f"{len(self._generations)} requests in flight on {self._slots} slots", "send it again later")

    async def _encode(self, request: GenerationRequest) -> tuple[list[int], LabelTrie | None]:
        """Token ids of the prompt, and the trie of its labels; made beside the event loop, since a long chat takes 100 ms."""
        assert self._lm is not None
        prompt = await asyncio.to_thread(self._lm.encode, request.messages)
        trie = await asyncio.to_thread(self._lm.trie, request.labels) if request.labels else None
        most = request.max_tokens if trie is None else trie.longest
        if len(prompt) + most > self._lm.context:
            reason = f"{len(prompt)} prompt tokens and {most} to generate exceed the context of {self._lm.context}"
            raise PromptTooLong("prompt_too_long", reason, "shorten the messages or lower max_tokens")
        return prompt, trie

    def _run(self, ready: asyncio.Future[None]) -> None:
        """The engine's thread."""
        reason = "closed"
        try:
            loop = self._load()
            self._call(_resolve, ready, None)
            self._work(loop)
        except BaseException as error:  # whatever it is, nobody may wait for this thread any more
            reason = f"its thread died of {type(error).__name__}: {error}"
            _log.critical("engine thread died", exc_info=error)
            self._call(_resolve, ready, error)
        finally:
            self._call(self._end, reason)

    def _load(self) -> DecodeLoop:
        from connectors.engines.causal_lm import CausalLm  # noqa: PLC0415  # imports torch: 500 MB that only a started engine pays
        from connectors.engines.decode_loop import DecodeLoop  # noqa: PLC0415
        from connectors.engines.warm_up import warm_up  # noqa: PLC0415

        self._lm = CausalLm(self._folder, self.device, self._threads)
        self.device = self._lm.device
        warm_up(self._lm, self._rates)
        self._stopped = None
        return DecodeLoop(self._lm, self._slots, self._clock, self._rates)

    def _work(self, loop: DecodeLoop) -> None:
        """Step while there is something to do, sleep otherwise; return when closed."""
        while True:
            while loop.idle or not self._inbox.empty():
                arrived = self._inbox.get()
                if arrived is None:
                    return
                loop.add(arrived)
            self._stepped = time.monotonic()
            deliveries = loop.step()
            failed = any(not isinstance(gained, GeneratedChunk) for _, gained in deliveries)
            self._failures = self._failures + 1 if failed else 0
            if deliveries:
                self._call(self._deliver, deliveries)

    def _deliver(self, deliveries: list[Delivery]) -> None:
        """On the event loop: hand out what one step gained."""
        for generation, chunk in deliveries:
            generation.chunks.put_nowait(chunk)
            if not isinstance(chunk, GeneratedChunk) or chunk.finish:
                self._generations.discard(generation)

    def _end(self, reason: str) -> None:
        """On the event loop: nothing will be generated any more."""
        self._stopped = self._stopped or reason
        for generation in self._generations:
            generation.chunks.put_nowait(EngineStopped(reason))
        self._generations.clear()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Run `function` on the event loop. One that is closed has nobody left who waits."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


def _resolve(ready: asyncio.Future[None], error: BaseException | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)
