"""The small-model tier of the inference service: embeds and classifies whatever is queued now, beside the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from schemas.events import Guess, InferenceRequested
from streams.errors import RetryableError
from streams.lanes import Lane
from streams.semantic.texts import Embedder
from streams.small_models import CLASSIFY, EMBED, SmallAnswer, TextClassifier, Vectors, decide, text_of

log = logging.getLogger(__name__)

MOST_AT_ONCE = 64  # texts in one call: above it a call takes longer in proportion, and the first of it would wait for the last
_ROOM = 2000  # texts that may wait: whoever brings more waits, rather than memory grows


class SmallModelFailed(RetryableError):
    """A small model's runtime failed under this batch (out of memory, a kernel's error). Send the request again."""

    def __init__(self, error: Exception) -> None:
        super().__init__("small_model_failed", f"{type(error).__name__}: {str(error)[:300]}", "send the request again")


Outcome = SmallAnswer | Guess | SmallModelFailed


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for the next call, and who waits for it."""

    request: InferenceRequested
    done: asyncio.Future[Outcome]


class SmallModelTier:
    """Answers admitted requests of the tasks classify and embed, for one event loop.

    `embedders` and `classifiers` are by the names that requests use; each classifier takes the vectors of the embedder that
    `embeds_for` names for it. Requests that come while a call is running are taken together by the next one, so batches grow under
    load, and a lone request waits for nobody.
    """

    def __init__(self, embedders: Mapping[str, Embedder], classifiers: Mapping[str, TextClassifier], embeds_for: Mapping[str, str]) -> None:
        self._embedders = dict(embedders)
        self._classifiers = dict(classifiers)
        self._embeds_for = dict(embeds_for)
        self._lane = Lane(self._call_once, MOST_AT_ONCE, _ROOM)
        # One thread: two calls at once would only share the cores, or the device, and finish later both.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="small-models")

    @property
    def task_models(self) -> dict[str, tuple[str, ...]]:
        """Names of the models of each task that has some, as `AdmissionLimits.task_models` wants them; the first is the default."""
        by_task = {CLASSIFY: tuple(self._classifiers), EMBED: tuple(self._embedders)}
        return {task: names for task, names in by_task.items() if names}

    @property
    def versions(self) -> dict[str, str]:
        """Of each model by its name: answers of another version are never served as known."""
        embedders = {name: model.version for name, model in self._embedders.items()}
        return embedders | {name: model.version for name, model in self._classifiers.items()}

    def classifier(self, name: str) -> TextClassifier:
        """The classifier of an admitted request's model."""
        return self._classifiers[name]

    async def answer(self, requests: Sequence[InferenceRequested]) -> list[Outcome]:
        """What is known of each request, in their order; a guess where a classifier does not know; the error where a call failed."""
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(request, loop.create_future()) for request in requests]
        await self._lane.put(waiting)
        return await asyncio.gather(*(one.done for one in waiting))

    def close(self) -> None:
        """Let the running call end, and take no other."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _call_once(self, batch: Sequence[_Waiting]) -> None:
        """Answer a batch with one call. A call that fails is told to its own batch."""
        outcomes: Sequence[Outcome]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._call, [one.request for one in batch])
        except Exception as error:
            log.exception("small_model_failed requests=%s", len(batch))
            outcomes = [SmallModelFailed(error)] * len(batch)
        for one, outcome in zip(batch, outcomes, strict=True):
            if not one.done.done():  # whoever asked may have been cancelled
                one.done.set_result(outcome)

    def _call(self, requests: Sequence[InferenceRequested]) -> list[SmallAnswer | Guess]:
        """On the thread: each embedder sees its texts once, and each classifier its own."""
        answers: dict[int, SmallAnswer | Guess] = {}
        embedders = [request.model if request.task == EMBED else self._embeds_for[request.model] for request in requests]
        for name in dict.fromkeys(embedders):
            rows = [row for row, embedder in enumerate(embedders) if embedder == name]
            vectors = self._embedders[name].embed([text_of(requests[row]) for row in rows])
            kinds = [(requests[row].task, requests[row].model) for row in rows]
            for task, model in dict.fromkeys(kinds):
                own = [place for place, kind in enumerate(kinds) if kind == (task, model)]
                asked = [requests[rows[place]] for place in own]
                told = self._embedded(name, vectors[own]) if task == EMBED else self._classified(model, asked, vectors[own])
                answers |= {rows[place]: answer for place, answer in zip(own, told, strict=True)}
        return [answers[row] for row in range(len(requests))]

    def _embedded(self, name: str, vectors: Vectors) -> Sequence[SmallAnswer | Guess]:
        reason = f"embedded by {name} {self._embedders[name].version}"
        return [SmallAnswer(text="", reason=reason, embedding=tuple(vector)) for vector in vectors.tolist()]

    def _classified(self, model: str, asked: Sequence[InferenceRequested], vectors: Vectors) -> Sequence[SmallAnswer | Guess]:
        classifier = self._classifiers[model]
        given = classifier.classify([text_of(request) for request in asked], vectors)
        return [decide(classifier, text_of(r), label, r.parameters.labels) for r, label in zip(asked, given, strict=True)]
