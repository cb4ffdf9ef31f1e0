"""Small models behind ports: what they answer, when they know, and what the language model is asked where they don't. Pure.

A request has a task. `classify` names a shipped classifier as its model and `embed` an embedder; the text is the last user message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.events import Guess, InferenceRequested, Message, Parameters

CLASSIFY, EMBED, GENERATE = "classify", "embed", "generate"
SMALL_TASKS = (CLASSIFY, EMBED)

Vectors = NDArray[np.float32]
_MOST_LABEL_TOKENS = 64  # the engine ends a label by itself; the event needs a number
_SYSTEM = "You sort texts. You are given a list of labels and a text. Answer with the one label that fits the text, and nothing else."


@dataclass(frozen=True, slots=True)
class Label:
    """A label, and the calibrated probability that it is right: of 100 answers at 0.9, about 90 are."""

    label: str
    confidence: float


class TextClassifier(Protocol):
    """Texts to labels. `labels` are all that it gives, `out_of_scope` among them where it knows one, else ""."""

    name: str
    version: str
    labels: tuple[str, ...]
    out_of_scope: str

    def classify(self, texts: Sequence[str], vectors: Vectors) -> list[Label]:
        """The likeliest label of each text; `vectors` (texts, dimensions) are its embeddings. Blocks, without the
        interpreter's lock: call it in a thread."""
        ...

    def knows(self, label: Label) -> bool:
        """Whether the label can stand as an answer: it is in scope, and its confidence reaches the calibrated cut."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallAnswer:
    """What a small model knows: a label with its confidence, or a vector. `reason` is what the client is told."""

    text: str
    reason: str
    confidence: float | None = None
    embedding: tuple[float, ...] = ()


def text_of(request: InferenceRequested) -> str:
    """What a small model looks at: the last message, which admission has found to be the user's."""
    return request.messages[-1].content


def decide(classifier: TextClassifier, text: str, given: Label, wanted: Sequence[str]) -> SmallAnswer | Guess:
    """The label as an answer where the classifier knows, or else as a guess. `wanted`: the request's own labels, () for all."""
    model = f"{classifier.name} {classifier.version}"
    if not classifier.knows(given) or (wanted and given.label not in wanted):
        return Guess(classifier=model, text=text, label=given.label, confidence=given.confidence)
    reason = f"{model} is sure enough of it: {given.confidence:.3f}"
    return SmallAnswer(text=given.label, reason=reason, confidence=given.confidence)


def why_not_known(guess: Guess) -> str:
    """The reason on RequestAdmitted of a text that went on to the language model."""
    return f"{guess.classifier} does not know: {guess.label!r} at {guess.confidence:.3f}"


def labels_to_choose_from(classifier: TextClassifier, wanted: Sequence[str]) -> tuple[str, ...]:
    """What the language model may answer: the request's own labels, or all of the classifier's, its word for out of scope included."""
    return tuple(wanted) or classifier.labels


def asked_for_a_label(text: str, labels: Sequence[str], seed: int) -> tuple[tuple[Message, ...], Parameters]:
    """Messages and parameters that have a language model choose one of the labels, word for word."""
    asking = f"Labels: {', '.join(labels)}\n\nText: {text}\n\nWhich label fits the text?"
    messages = (Message(role="system", content=_SYSTEM), Message(role="user", content=asking))
    return messages, Parameters(max_tokens=_MOST_LABEL_TOKENS, seed=seed, labels=tuple(labels))
