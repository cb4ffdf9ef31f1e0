"""Weak labels: which results give one, and that none is trained on before somebody confirmed it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.events import GenerationFinished, Guess
from schemas.knowledge import FeedbackGiven, WeakLabelGiven
from streams.weak_labels import confirmed, weak_label

RESULT = GenerationFinished(
    request_id="r", tenant="acme", model="llm", worker="w0", epoch=1, outcome="completed", text="balance", finish_reason="stop",
    prompt_tokens=9, completion_tokens=1, finished_at=5, task="classify",
    guess=Guess(classifier="intents 1", text="how much is left", label="transfer", confidence=0.4),
)  # fmt: skip
WEAK = weak_label(RESULT, 7)
assert WEAK is not None


def said(right: bool, at: int = 10, **changes: Any) -> FeedbackGiven:
    """Feedback on the request."""
    return replace(FeedbackGiven(request_id="r", tenant="acme", right=right, given_by="ada", given_at=at), **changes)


def test_a_label_keeps_its_provenance() -> None:
    """Who guessed what how surely, and who decided."""
    assert WeakLabelGiven(
        request_id="r", tenant="acme", classifier="intents 1", text="how much is left", label="balance", guess="transfer", confidence=0.4,
        given_by="llm on w0", given_at=7,
    ) == WEAK  # fmt: skip


@pytest.mark.parametrize(
    "changes", [{"task": "generate"}, {"guess": None}, {"outcome": "failed"}, {"outcome": "returned"}, {"finish_reason": "length"}]
)
def test_other_results_give_none(changes: dict[str, Any]) -> None:
    """Neither another task, nor a request that no small model saw, nor half an answer."""
    assert weak_label(replace(RESULT, **changes), 7) is None


def test_only_what_somebody_confirmed_is_returned() -> None:
    """Right, or corrected; silence, and wrong without a correction, are not enough."""
    assert confirmed([WEAK], []) == []
    assert confirmed([WEAK], [said(False)]) == []
    right, corrected = confirmed([WEAK], [said(True)])[0], confirmed([WEAK], [said(False, correction="bills")])[0]
    assert (right.label, right.corrected, right.confirmed_by, right.text) == ("balance", False, "ada", "how much is left")
    assert (corrected.label, corrected.corrected) == ("bills", True)


def test_the_latest_word_counts_and_only_its_own_tenants() -> None:
    """In any order; a label that is on the log twice counts once; another tenant's word on the same id says nothing."""
    words = [said(True, 10), said(False, 20)]
    assert confirmed([WEAK], words) == confirmed([WEAK], words[::-1]) == []
    assert len(confirmed([WEAK, WEAK], [said(True)])) == 1
    assert confirmed([WEAK], [said(True, tenant="globex")]) == []


IDS = st.sampled_from(["r", "s", "t"])
TENANTS = st.sampled_from(["acme", "globex"])
LABELS = st.lists(st.builds(lambda r, t: replace(WEAK, request_id=r, tenant=t), IDS, TENANTS))
FEEDBACK = st.lists(
    st.builds(
        lambda r, t, right, at, correction: said(right, at, request_id=r, tenant=t, correction=correction),
        IDS, TENANTS, st.booleans(), st.integers(0, 3), st.sampled_from([None, "", "bills"]),
    )
)  # fmt: skip


@given(LABELS, FEEDBACK)
def test_nothing_unconfirmed_ever_comes_out(labels: list[WeakLabelGiven], feedback: list[FeedbackGiven]) -> None:
    """Whatever is on the log: each label that comes out has a word of its own tenant that stands for exactly it."""
    for one in confirmed(labels, feedback):
        words = [w for w in feedback if (w.request_id, w.tenant) == (one.request_id, one.tenant) and w.given_at == one.confirmed_at]
        assert any((w.right and one.label == "balance") or (not w.right and w.correction == one.label) for w in words)
