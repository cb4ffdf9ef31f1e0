"""Whether two texts are one wording, but for how it is typed: case, spaces, punctuation at words' ends, contractions, articles, "please".

The commonest repeat in real traffic, and one that needs no model. What could change a meaning stays: signs inside a word (C++, 5.0, -3),
every other word, and every order. "a" is an article only after a word that can't be followed by a name: "vitamin A" keeps it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from streams.semantic.gate_words import words

_CONTRACTED = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\b(?:can't|cannot)\b", "can not"), (r"\bwon't\b", "will not"), (r"n't\b", " not"), (r"'re\b", " are"), (r"'ve\b", " have"),
        (r"'ll\b", " will"), (r"\bi'm\b", "i am"),
        (r"\b(what|who|where|when|how|why|it|that|there|here|he|she)'s\b", r"\1 is"),
    )
)  # fmt: skip
_LEFT_OUT = frozenset(("please", "the", "an"))
_ENDS = ".,;:!?\"'()[]\u2026\u201c\u201d"


def same_wording(one: str, other: str) -> bool:
    """Whether both are typed otherwise at most. Never for texts without a word."""
    plain = plain_wording(one)
    return bool(plain) and plain == plain_wording(other)


@lru_cache(maxsize=4096)  # a candidate meets many queries
def plain_wording(text: str) -> tuple[str, ...]:
    """The words of a text in one way of typing."""
    lowered = text.replace("\u2019", "'").casefold()
    for pattern, plain in _CONTRACTED:
        lowered = pattern.sub(plain, lowered)
    stripped = [word.strip(_ENDS) for word in lowered.split()]
    found: list[str] = []
    for word in filter(None, stripped):
        article = word == "a" and (not found or found[-1] in words().stopwords)
        if word not in _LEFT_OUT and not article:
            found.append(word)
    return tuple(found)
