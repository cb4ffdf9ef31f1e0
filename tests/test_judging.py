"""The judge of answers: what settles a comparison, in both directions, and the shipped error against its measurement."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.semantic.judging import CUT, CUT_WITH_VECTORS, ERROR, ERROR_WITH_VECTORS, RuleJudge, tokens
from tests.checkout import ROOT

SAME = [
    ("Who wrote it?", "Jane Austen", "It was Jane Austen."),
    ("Who wrote it?", "The Beatles", "beatles"),
    ("How many episodes are there?", "11", "There are 11 episodes."),
    ("How many people?", "1,000", "1000"),
    ("How many moons?", "two", "2"),
    ("Where is it?", "in South America", "South America"),
    ("Who sang it?", "Beyoncé", "Beyonce"),
    ("How do I reset it?", "Hold the power button for ten seconds.", "Hold the power button for 10 seconds"),
    ("Is it open?", "No", "No, it is not."),
]
DIFFERENT = [
    ("How many?", "11", "11 million"),
    ("How many?", "11", "12"),
    ("When was it?", "May 1, 2018", "June 1, 2018"),
    ("When was it?", "2018", "May 1, 2018"),
    ("Is it open?", "Yes", "No"),
    ("Is it safe?", "It is safe.", "It is not safe."),
    ("Is it safe?", "It's safe to drink", "It isn't safe to drink"),
    ("Who wrote it?", "Michael Jordan", "Michael Jackson"),
    ("Who wrote it?", "\u7570\u4e16\u754c", "\u4e16\u754c\u7684"),
    ("Who wrote it?", "", "Jane Austen"),
    ("What share?", "5%", "5"),
    ("What is it?", "+", "-"),
]


@pytest.mark.parametrize(("question", "known", "fresh"), SAME)
def test_the_same_in_other_words(question: str, known: str, fresh: str) -> None:
    """In both orders."""
    assert RuleJudge().judge(question, known, fresh).same
    assert RuleJudge().judge(question, fresh, known).same


@pytest.mark.parametrize(("question", "known", "fresh"), DIFFERENT)
def test_what_must_not_pass_as_the_same(question: str, known: str, fresh: str) -> None:
    """Numbers, scales, negation, names, other alphabets, nothing at all; in both orders."""
    assert not RuleJudge().judge(question, known, fresh).same
    assert not RuleJudge().judge(question, fresh, known).same


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=30))
def test_any_text_is_like_itself_and_order_says_nothing(known: str, fresh: str, question: str) -> None:
    """And nothing raises."""
    judge = RuleJudge()
    assert judge.judge(question, known, known).same
    assert judge.judge(question, known, fresh) == judge.judge(question, fresh, known)
    assert 0.0 <= judge.judge(question, known, fresh).confidence <= 1.0


def test_vectors_count_where_they_are_given() -> None:
    """The same words in another order agree in all three measures; the version names what judged."""

    class Alike:
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.tile(np.array([[1.0, 0.0]], np.float32), (len(texts), 1))

    with_vectors = RuleJudge(Alike())
    assert with_vectors.agreement("rain and snow", "hail or sleet") > RuleJudge().agreement("rain and snow", "hail or sleet") + 0.2
    assert with_vectors.version != RuleJudge().version
    assert with_vectors.judge("?", "salt, then pepper and oil", "pepper and oil, then salt").same


def test_tokens_are_plain() -> None:
    """Accents, case, thousands, articles, number words."""
    assert tokens("The Caf\u00e9's 12,500 guests, five of them 50%") == ("cafe", "12500", "guests", "5", "of", "them", "50", "percent")


def test_the_shipped_error_is_the_measured_one() -> None:
    """Cut and upper bound of the hardest kind, from the benchmark's result."""
    results = json.loads((ROOT / "benchmarks" / "results" / "judge.json").read_text())
    for name, cut, error in (("words", CUT, ERROR), ("vectors", CUT_WITH_VECTORS, ERROR_WITH_VECTORS)):
        measured = results[name]
        hardest = max(kind["upper"] for title, kind in measured["benchmark"].items() if "question's" in title or "nearest" in title)
        assert measured["cut"] == cut
        assert hardest <= error.false_same_upper <= hardest + 0.001
