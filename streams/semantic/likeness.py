"""How two questions are alike and unlike in their words: numbers for a classifier, beside what a network makes of both. Pure.

A network that read millions of sentences has seen "dentist" and "surgeon" side by side; that this very word is the only one that differs
is told here.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from itertools import pairwise
from typing import Any

from streams.semantic.facts import Facts, facts
from streams.semantic.gates import GATES
from streams.semantic.texts import QuestionPair

Rarity = Callable[[str], float]
"""How rare a word is: about 0 for "the", 1 for a word that is hardly ever written."""

NAMES = (
    "similarity", "words_in_common", "content_in_common", "pieces_in_common", "order_in_common", "shorter", "longer",
    "length_ratio", "fewer_differing", "more_differing", "rarest_differing", "rarity_differing", "rarity_shared", "near_spellings",
    "first_same", "last_same", "kind_same", "kinds_clear", "numbers_missing", "names_missing", "negation_differs", "sentences", "gates",
)  # fmt: skip


def features(pair: QuestionPair, rarity: Rarity) -> list[float]:
    """One value for each of `NAMES`. It makes no difference which text is which."""
    a, b = facts(pair.known), facts(pair.asked)
    mine, theirs = set(a.order), set(b.order)
    only_a, only_b = mine - theirs, theirs - mine
    differing = sorted((len(only_a), len(only_b)))
    rare = [rarity(word) for word in only_a | only_b]
    shorter, longer = sorted((a.length, b.length))
    return [
        pair.similarity,
        _share(a.words, b.words),
        _share(mine, theirs),
        _share(_pieces(pair.known), _pieces(pair.asked)),
        _order(a, b),
        shorter,
        longer,
        shorter / max(1, longer),
        differing[0],
        differing[1],
        max(rare, default=0.0),
        sum(rare),
        sum(rarity(word) for word in mine & theirs),
        _near(only_a, only_b),
        float(a.frame[:1] == b.frame[:1]),
        float(a.order[-1:] == b.order[-1:]),
        float(a.kinds == b.kinds),
        float(bool(a.kinds) + bool(b.kinds)),
        len(a.numbers ^ b.numbers),
        sum(n not in b.words for n in a.names) + sum(n not in a.words for n in b.names),
        float((a.negated is None) != (b.negated is None)),
        pair.known.count("?") + pair.asked.count("?"),
        sum(bool(check(a, b)) for check in GATES.values()),
    ]


def _share(a: Set[Any], b: Set[Any]) -> float:
    """Jaccard's index; 1 where both are empty."""
    return len(a & b) / len(a | b) if a or b else 1.0


def _pieces(text: str) -> frozenset[str]:
    """Runs of three letters."""
    flat = f" {text.lower()} "
    return frozenset(flat[i : i + 3] for i in range(len(flat) - 2))


def _order(a: Facts, b: Facts) -> float:
    """Share of neighbouring content words that are neighbours in the other text, too."""
    return _share(set(pairwise(a.order)), set(pairwise(b.order)))


def _near(only_a: set[str], only_b: set[str]) -> float:
    """Words of one text alone that begin like one of the other's: "prepare" and "preparation", or a slip."""
    return float(sum(any(x[:4] == y[:4] for y in only_b) for x in only_a if len(x) >= 4))
