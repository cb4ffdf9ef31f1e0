"""Weak labels: what a large model said where a small one was not sure, and which of them somebody confirmed. Pure.

A weak label is as good as the model that gave it, so none is ever trained on before a person said that it is right.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from schemas.events import GenerationFinished
from schemas.knowledge import FeedbackGiven, WeakLabelGiven
from streams.small_models import CLASSIFY


class ConfirmedLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A text with a label that somebody stands for. `corrected`: it is that person's label and not the model's."""

    request_id: str
    tenant: str
    classifier: str
    text: str
    label: str
    corrected: bool
    confirmed_by: str
    confirmed_at: int


def weak_label(result: GenerationFinished, now_ms: int) -> WeakLabelGiven | None:
    """What a language model's result teaches about a text that a small model only guessed at; None for any other result.

    One that was cut short is no label, even where it happens to be a word.
    """
    guess = result.guess
    if result.task != CLASSIFY or guess is None or result.outcome != "completed" or result.finish_reason != "stop":
        return None
    return WeakLabelGiven(
        request_id=result.request_id, tenant=result.tenant, classifier=guess.classifier, text=guess.text, label=result.text,
        guess=guess.label, confidence=guess.confidence, given_by=f"{result.model} on {result.worker}", given_at=now_ms,
    )  # fmt: skip


def confirmed(labels: Iterable[WeakLabelGiven], feedback: Iterable[FeedbackGiven]) -> list[ConfirmedLabel]:
    """The labels that may be trained on, in the order of the labels: those that the latest feedback calls right, or corrects.

    Feedback speaks only of its own tenant's requests. Of several on one request the latest counts, and of several at one time the one
    that is later in `feedback`. A label that came twice, as it can on the log, counts once.
    """
    latest: dict[tuple[str, str], FeedbackGiven] = {}
    for said in feedback:
        key = (said.tenant, said.request_id)
        if key not in latest or said.given_at >= latest[key].given_at:
            latest[key] = said
    first: dict[tuple[str, str], WeakLabelGiven] = {}
    for given in labels:
        first.setdefault((given.tenant, given.request_id), given)
    found = []
    for key, given in first.items():
        word = latest.get(key)
        label = None if word is None else given.label if word.right else word.correction
        if word is not None and label:
            found.append(_confirmed(given, label, word))
    return found


def _confirmed(given: WeakLabelGiven, label: str, word: FeedbackGiven) -> ConfirmedLabel:
    return ConfirmedLabel(
        request_id=given.request_id, tenant=given.tenant, classifier=given.classifier, text=given.text, label=label,
        corrected=not word.right, confirmed_by=word.given_by, confirmed_at=word.given_at,
    )  # fmt: skip
