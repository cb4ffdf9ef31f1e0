"""The words that the gates know, from `words.txt` beside this file, and the beginnings of questions. English, written by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SETS = ("negations", "stopwords", "unframed", "symmetric", "numbers")

_THE = r"(?: is|\'s| are|s)? (?:the |some |a )?"
ASKS = (
    ("amount", r"how (?:much|many|big|large|tall|high|heavy|far|deep|old|fast|expensive)|what (?:amount|number|percentage|quantity)"),
    ("duration", r"how (?:long|soon|quickly)|what duration"),
    ("frequency", r"how (?:often|frequently)"),
    ("reason", rf"(?:so |but |and )?why|how come|for what reason|what{_THE}(?:reasons?|causes?|caused|causing|makes?)"),
    ("time", r"when|(?:at |in |on )?(?:what|which) (?:time|day|date|year|month|age)"),
    ("place", r"where|(?:in |at |from )?(?:what|which) (?:place|city|country|location|state)"),
    ("person", r"who|whom|whose|which (?:person|people|man|woman)"),
    (
        "way",
        r"how (?:do|does|did|can|could|should|would|to|will|might|shall|may)"
        rf"|what{_THE}(?:best |easiest |quickest |good )?(?:ways?|steps|methods?|process|procedure)",
    ),
)
"""What a sentence asks for, by how it begins. The first that matches counts."""

APART = frozenset(
    frozenset(pair.split())
    for pair in (
        "reason way", "reason time", "reason place", "reason person", "reason amount", "reason duration", "reason frequency", "way time",
        "way amount", "way duration", "way frequency", "time place", "time person", "time amount", "place person", "place amount",
        "place duration", "person amount", "person duration", "amount duration", "amount frequency", "time frequency",
    )
)  # fmt: skip
"""What is not asked in the other's words. Other two may be: "where do I learn", "how do I learn"; "when", "how long until"."""


@dataclass(frozen=True, slots=True)
class Words:
    """The sets of words.txt. `exclusive`: for each word (number of its line, the line's label, first word of its field)."""

    negations: frozenset[str]
    stopwords: frozenset[str]
    unframed: frozenset[str]
    symmetric: frozenset[str]
    numbers: dict[str, str]
    exclusive: dict[str, tuple[tuple[int, str, str], ...]]


@cache
def words() -> Words:
    """Read at the first use."""
    sets: dict[str, list[list[str]]] = {}
    exclusive: dict[str, list[tuple[int, str, str]]] = {}
    for number, (kind, fields) in enumerate(_lines()):
        if kind in _SETS:
            sets[kind] = fields
            continue
        for field in fields:
            for word in field:
                exclusive.setdefault(word, []).append((number, kind, field[0]))
    return Words(
        negations=frozenset(sets["negations"][0]),
        stopwords=frozenset(sets["stopwords"][0]),
        unframed=frozenset(sets["unframed"][0]),
        symmetric=frozenset(sets["symmetric"][0]),
        numbers={word: field[0] for field in sets["numbers"] for word in field[1:]},
        exclusive={word: tuple(places) for word, places in exclusive.items()},
    )


@cache
def asks() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """`ASKS`, compiled."""
    return tuple((kind, re.compile(rf"(?:{pattern})\b")) for kind, pattern in ASKS)


def _lines() -> Iterator[tuple[str, list[list[str]]]]:
    for line in Path(__file__).with_name("words.txt").read_text().splitlines():
        if not line.startswith("#"):
            kind, _, rest = line.partition(":")
            yield kind, [field.split() for field in rest.split("|")]
