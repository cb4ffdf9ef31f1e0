"""Deterministic gates: reasons why two texts that look alike must not share an answer. Pure; tens of microseconds a pair.

An embedding hardly moves when a number, a negation or a name changes, and a verifier that was trained on other texts may not have
met the word. A gate refuses only on something it can name. They are one-sided: an open gate says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from streams.semantic.facts import Facts, facts, stem
from streams.semantic.gate_words import APART, words

_SHORT = 14
"""Words. Measured on calibration pairs: in longer ones, a missing number or name is as common in rewordings as in other questions."""


def gate(query: str, candidate: str) -> str:
    """Why the candidate's answer must not be served for the query, or "" where no gate refuses. The order of both doesn't matter."""
    a, b = facts(query), facts(candidate)
    for check in GATES.values():
        if reason := check(a, b):
            return reason
    return ""


def _numbers_differ(a: Facts, b: Facts) -> str:
    """Numbers contradict each other; in short texts none is missing either. "two" and "2" are alike."""
    only_a, only_b = a.numbers - b.numbers, b.numbers - a.numbers
    if (only_a and only_b) or ((only_a or only_b) and _short(a, b)):
        return f"numbers differ: {_list(only_a) or 'none'} and {_list(only_b) or 'none'}"
    return ""


def _negation(a: Facts, b: Facts) -> str:
    """What one text negates, the other has without negation; of short texts both are negated or none is."""
    if (a.negated is None) == (b.negated is None):
        return ""
    plain, negated = (b, a.negated) if b.negated is None else (a, b.negated)
    if _short(a, b) or (negated and negated & set(plain.order)):
        return f"negation: {_list(negated or ()) or 'in one of both'}"
    return ""


def _exclusive_words(a: Facts, b: Facts) -> str:
    """No word of one excludes a word of the other, such as on and off."""
    for number in a.groups.keys() & b.groups.keys():
        label, mine = a.groups[number]
        theirs = b.groups[number][1]
        if not mine & theirs:
            return f"{label}: {_list(mine)}/{_list(theirs)}"
    return ""


def _named_entities(a: Facts, b: Facts) -> str:
    """Names contradict each other; in short texts none is missing either. Other spellings, plurals and initials count as the name."""
    only_a = {name for name, initials in a.names.items() if not _mentions(b, name, initials)}
    only_b = {name for name, initials in b.names.items() if not _mentions(a, name, initials)}
    if (only_a and only_b) or ((only_a or only_b) and _short(a, b)):
        return f"named entities: {_list(only_a) or 'none'} and {_list(only_b) or 'none'}"
    return ""


def _question_word(a: Facts, b: Facts) -> str:
    """Not one asks why and the other how. What is asked in other words, or not asked outright, fits all."""
    if a.kinds and b.kinds and all(frozenset((x, y)) in APART for x in a.kinds for y in b.kinds):
        return f"question word: {a.kinds[-1]}/{b.kinds[-1]}"
    return ""


def _swapped(a: Facts, b: Facts) -> str:
    """One text with two of its words exchanged, where the order means something; or a way from A to B and back."""
    if a.route[0] and a.route == b.route[::-1] and a.route[0] != a.route[1]:
        return f"swapped: from {a.route[0]} to {a.route[1]}"
    if len(a.frame) != len(b.frame) or a.words & words().symmetric:
        return ""
    apart = [i for i, (x, y) in enumerate(zip(a.frame, b.frame, strict=True)) if x != y]
    if len(apart) == 2 and apart[1] - apart[0] > 1 and a.frame[apart[0]] == b.frame[apart[1]] and a.frame[apart[1]] == b.frame[apart[0]]:
        return f"swapped: {a.frame[apart[0]]} and {a.frame[apart[1]]}"
    return ""


GATES: dict[str, Callable[[Facts, Facts], str]] = {
    "numbers": _numbers_differ,
    "negation": _negation,
    "exclusive words": _exclusive_words,
    "named entities": _named_entities,
    "question word": _question_word,
    "swapped": _swapped,
}
"""In the order in which they are asked. Each takes the facts of both texts and gives "" or its reason."""


def _short(a: Facts, b: Facts) -> bool:
    """Whether a word that is missing tells something: who rewords a long text leaves things out."""
    return max(a.length, b.length) <= _SHORT


def _list(found: Iterable[str]) -> str:
    return " ".join(sorted(found))


def _mentions(other: Facts, name: str, initials: str) -> bool:
    """Whether a text has a name: as a word, a plural, under another name, inside a longer word, or as initials of or for its words."""
    if name in other.words or initials in other.words or stem(name) in other.order:
        return True
    groups = words().exclusive.get(name, ())
    if any(field in other.groups.get(number, ("", frozenset()))[1] for number, _, field in groups):
        return True
    if len(name) >= 4 and any(name in word or (len(word) >= 4 and word in name) for word in other.words):
        return True
    return len(name) in range(2, 6) and name in "".join(word[0] for word in other.order)
