"""What the gates read from a text: its numbers, names, negations, words that exclude others, and what it asks for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from streams.semantic.gate_words import asks
from streams.semantic.gate_words import words as known

_TOKEN = re.compile(r"[a-z]+\+\+|[a-z]#|[a-z0-9]*\d[a-z0-9]*(?:[.,:/-]\d+[a-z0-9]*)*|[a-z]+(?:'[a-z]+)*")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?:st|nd|rd|th)?([a-z]{0,12})")
_NAME = re.compile(r"(?<![.!?:]\s)(?<!^)(?<=[\s(\"'/-])[A-Z][A-Za-z0-9+#]*(?:'s)?")
_INITIALS = re.compile(r"\b(?:[A-Za-z]\.){2,}")
_RUN = re.compile(r"[A-Z][a-z]+(?:(?: of| and| for| the)* [A-Z][a-z]+)+")
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=\S)")
_ALIASES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        ("[\u2018\u2019]", "'"), (r"(?i)\bunited states(?: of america)?\b", "USA"), (r"\bUS\b", "USA"), (r"(?i)\bunited kingdom\b", "UK"),
        (r"(?i)\bsri lanka\b", "Srilanka"), (r"(?i)\bnew (york|delhi|zealand|jersey|hampshire|mexico|orleans)\b", r"New\1"),
    )
)  # fmt: skip
_SIGN = re.compile(r"\d\s*([+*^/\u00d7\u00f7])\s*\d")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the gates read from one text.

    `order`: stems of the content words in order; `frame`: of all words but articles and pronouns. `negated`: the stems that a negation
    bears on, None where there is none. `kinds`: what is asked, by sentence. `names`: capitalised words, with the
    initials of their run. `route`: A and B of "from A to B". `length`: words.
    """

    words: frozenset[str]
    order: tuple[str, ...]
    frame: tuple[str, ...]
    numbers: frozenset[str]
    negated: frozenset[str] | None
    groups: dict[int, tuple[str, frozenset[str]]]
    names: dict[str, str]
    kinds: tuple[str, ...]
    route: tuple[str, str]
    length: int


@lru_cache(maxsize=4096)  # a candidate meets many queries
def facts(text: str) -> Facts:
    """Read one text."""
    flat = _INITIALS.sub(lambda found: found.group().replace(".", ""), text)
    for pattern, name in _ALIASES:
        flat = pattern.sub(name, flat)
    lowered = flat.lower()
    tokens = _TOKEN.findall(lowered)
    words = [_plain(token) for token in tokens]
    groups: dict[int, tuple[str, set[str]]] = {}
    for word in _with_units(words):
        for number, label, field in known().exclusive.get(word, ()):
            groups.setdefault(number, (label, set()))[1].add(field)
    return Facts(
        words=frozenset(words),
        order=tuple(stem(word) for word in words if word not in known().stopwords),
        frame=tuple(stem(word) for word in words if word not in known().unframed),
        numbers=frozenset(_numbers(words)) | set(_SIGN.findall(lowered)),
        negated=_negated(words),
        groups={number: (label, frozenset(fields)) for number, (label, fields) in groups.items()},
        names=_names(flat),
        kinds=tuple(filter(None, map(_asks, _SENTENCE.split(lowered.strip())))),
        route=_route(words),
        length=len(words),
    )


def _negated(words: list[str]) -> frozenset[str] | None:
    """Stems of the next two content words after each negation, or None where nothing is negated."""
    found: set[str] = set()
    any_there = False
    for at, word in enumerate(words):
        if word in known().negations:
            any_there = True
            found.update([stem(w) for w in words[at + 1 : at + 7] if w not in known().stopwords and w not in known().negations][:2])
    return frozenset(found) if any_there else None


def _plain(word: str) -> str:
    """Without possessive and inner apostrophes: "trump's" is trump, "don't" is dont."""
    return word.removesuffix("'s").replace("'", "")


def stem(word: str) -> str:
    """Good enough to know a plural again."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _with_units(words: list[str]) -> Iterable[str]:
    """The words, and the units that are written together with their number."""
    for word in words:
        yield word
        if word[0].isdigit() and (found := _NUMBER.fullmatch(word)) and found.group(2):
            yield found.group(2)


def _numbers(words: list[str]) -> Iterable[str]:
    """Numbers in one spelling: 1,000 is 1000, 5.0 is 5, 3rd is 3, two is 2; a code such as m750n stands for itself."""
    for word in words:
        if word in known().numbers:
            yield known().numbers[word]
        elif any(letter.isdigit() for letter in word):
            plain = word.replace(",", "")
            found = _NUMBER.fullmatch(plain)
            if not found:
                yield plain
            elif found.group(1) != "1" or found.group(2):  # 1 is "a" and "one", which are everywhere
                yield found.group(1).removesuffix(".0")


def _names(text: str) -> dict[str, str]:
    """Capitalised words inside sentences, lowered. Nothing where most words are capitalised: a headline."""
    found = [_plain(match.group().lower()) for match in _NAME.finditer(text)]
    if len(found) * 2 > len(text.split()):
        return {}
    runs: dict[str, str] = {}
    for run in _RUN.findall(text):
        initials = "".join(word[0] for word in run.split() if word[0].isupper()).lower()
        runs |= {word.lower(): initials for word in run.split()}
    return {n: runs.get(n, "") for n in found if n not in known().stopwords and len(n) > 1 and not any(c.isdigit() for c in n)}


def _asks(sentence: str) -> str:
    return next((kind for kind, pattern in asks() if pattern.match(sentence)), "")


def _route(words: list[str]) -> tuple[str, str]:
    """(A, B) of "from A to B" or "A to B" between content words; ("", "") where there is none."""
    for at, word in enumerate(words):
        if word in ("to", "into") and 0 < at < len(words) - 1:
            before, after = words[at - 1], next((w for w in words[at + 1 :] if w not in known().stopwords), "")
            if before not in known().stopwords and after and ("from" in words[:at] or "convert" in words[:at]):
                return before, after
    return "", ""
