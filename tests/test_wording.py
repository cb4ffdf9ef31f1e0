"""One wording, typed in two ways; and what only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.semantic.wording import plain_wording, same_wording


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "what is the capital of france"),
        ("What's the capital of France?", "What is  capital of France ?"),
        ("Can't I log in?", "cannot I log in"),
        ("Please, how do I reset my password?", "How do I reset my password"),
        ("What is a group?", "What is group?"),
        ("\u201cWho won\u2019t vote?\u201d", "who will not vote"),
    ],
)
def test_typed_otherwise(one: str, other: str) -> None:
    """The same, either way round."""
    assert same_wording(one, other)
    assert same_wording(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Can I log in?", "Can't I log in?"),
        ("Is C good?", "Is C++ good?"),
        ("What is 5.0 plus 1?", "What is 50 plus 1?"),
        ("What is 3 - 2?", "What is 3 + 2?"),
        ("Is vitamin A good?", "Is vitamin good?"),
        ("Does a dog bite a man?", "Does a man bite a dog?"),
        ("turn on the light", "turn off the light"),
        ("", "?"),
    ],
)
def test_something_else(one: str, other: str) -> None:
    """A sign, a word or the order differs; or there is no word."""
    assert not same_wording(one, other)


@given(st.text(max_size=100))
def test_case_of_the_whole_text_is_no_wording(text: str) -> None:
    """Casefolded twice is casefolded once."""
    assert plain_wording(text.casefold()) == plain_wording(text)
