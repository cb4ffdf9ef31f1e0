"""Whether two answers say the same, by rules over their words and numbers, and an embedding where one is given. Pure.

In order: equal after normalising, the same; numbers or a negation that contradict, different; one answer stands whole in the other, which
adds no number, and to a bare number nothing that the question doesn't name, the same; else the agreement of words, of letters
(trigrams) and of vectors against a cut.

The cut and the errors come from `benchmarks/judge.py`, which fits on calibration data and reports on benchmark data. It is cautious:
a wrong "same" hides a wrong answer, a wrong "different" costs trust that was earned.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from streams.semantic.ports import JudgeError, Verdict

# From benchmarks/results/judge.json: the cuts (lower ones met the wanted error as well; this is the benchmark's floor), and the upper
# bound of the hardest kind of different answers. Of same answers no share is known that is surely flagged.
CUT = CUT_WITH_VECTORS = 0.75
ERROR = JudgeError(false_same_upper=0.0148, false_different=0.0)
ERROR_WITH_VECTORS = JudgeError(false_same_upper=0.0154, false_different=0.0)

_ARTICLES = frozenset({"a", "an", "the"})
_EMPTY = _ARTICLES | {
    "is", "was", "are", "were", "be", "been", "it", "its", "this", "that", "of", "in", "on", "at", "to", "for", "by", "with", "and",
    "as", "from", "his", "her", "their", "they", "he", "she", "i", "answer", "would", "will", "far", "know", "about", "around",
    "approximately",
}  # fmt: skip
_NEGATIONS = frozenset({
    "not", "no", "never", "none", "nor", "neither", "cannot", "without", "nobody", "nothing", "isn't", "wasn't", "aren't", "don't",
    "doesn't", "didn't", "can't", "won't", "false",
})  # fmt: skip
_YES = frozenset({"yes", "true"})
_SCALES = frozenset({"hundred", "thousand", "million", "billion", "trillion", "percent", "k", "m", "bn", "dozen"})
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_TOKEN = re.compile(r"[^\W_]+(?:[.'][^\W_]+)*|%")
_THOUSANDS = re.compile(r"(?<=\d),\s?(?=\d{3}\b)")
_LONG = 60
"""Words. In longer answers containing little proves little, and agreement alone decides."""


class Embedder(Protocol):
    """Vectors of length 1, shape (len(texts), d)."""

    def embed(self, texts: Sequence[str]) -> Any: ...


class RuleJudge:
    """Adapter-free `SameAnswerJudge`: about 50 µs without an embedder."""

    def __init__(self, embedder: Embedder | None = None, cut: float | None = None, error: JudgeError | None = None) -> None:
        """Another cut than the shipped one needs its own measured error."""
        self._embedder = embedder
        self._cut = cut if cut is not None else (CUT if embedder is None else CUT_WITH_VECTORS)
        self.error = error or (ERROR if embedder is None else ERROR_WITH_VECTORS)
        self.version = f"rules-1{'' if embedder is None else '-vectors'}-{self._cut:.3f}"

    def judge(self, question: str, known: str, fresh: str) -> Verdict:
        """See the file's docstring. Nothing agrees with an empty answer but another one."""
        settled = by_rules(question, known, fresh)
        if settled is not None:
            return settled
        agreement = self.agreement(known, fresh)
        return Verdict(agreement >= self._cut, min(1.0, 0.5 + abs(agreement - self._cut)))

    def agreement(self, known: str, fresh: str) -> float:
        """Mean of the measures at hand, in [0, 1]."""
        measures = [_overlap(Counter(tokens(known)), Counter(tokens(fresh))), _overlap(_trigrams(known), _trigrams(fresh))]
        if self._embedder is not None:
            a, b = self._embedder.embed([known, fresh])
            measures.append(max(0.0, float(a @ b)))
        return sum(measures) / len(measures)


def by_rules(question: str, known: str, fresh: str) -> Verdict | None:
    """The verdict where a rule settles it, else None."""
    a, b = tokens(known), tokens(fresh)
    if not a or not b:
        return Verdict(known.split() == fresh.split(), 1.0)  # signs alone
    if a == b:
        return Verdict(True, 1.0)
    if _numbers_contradict(a, b) or _opposed(a, b):
        return Verdict(False, 1.0)
    return _by_telling_words(question, a, b)


def _by_telling_words(question: str, a: tuple[str, ...], b: tuple[str, ...]) -> Verdict | None:
    """The same where what is left without empty words is equal, or stands whole in the other."""
    telling_a, telling_b = ([t for t in side if t not in _EMPTY] for side in (a, b))
    short, long = sorted((telling_a, telling_b), key=len)
    if not short or (short != long and (len(long) > _LONG or not _contains(long, short))):
        return None
    added = set(long) - set(short) - set(tokens(question))
    if any(t[0].isdigit() for t in added) or (added and all(t[0].isdigit() for t in short)):
        return None  # another number makes another statement, and a number says something else beside other words
    return Verdict(True, 0.95 if short == long else 0.9)


@lru_cache(4096)
def tokens(text: str) -> tuple[str, ...]:
    """Words and numbers in lower case, without accents, articles and punctuation; 1,000 is 1000, and one to twelve are digits."""
    letters = (c for c in unicodedata.normalize("NFKD", text.replace("\u2019", "'")) if not unicodedata.combining(c))
    plain = "".join(letters).casefold()
    words = (word.removesuffix("'s") for word in _TOKEN.findall(_THOUSANDS.sub("", plain).replace("%", " percent ")))
    return tuple(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)


def _numbers_contradict(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Each has a number that the other lacks, or they count in different scales."""
    numbers_a, numbers_b = ({t for t in side if t[0].isdigit()} for side in (a, b))
    if not numbers_a or not numbers_b:
        return False
    return bool(numbers_a - numbers_b and numbers_b - numbers_a) or _SCALES & set(a) != _SCALES & set(b)


def _opposed(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """One says yes, the other no; or one denies what the other says."""
    yes_a, yes_b = ((bool(_YES & set(side)), bool(_NEGATIONS & set(side))) for side in (a, b))
    return yes_a[1] != yes_b[1] or (yes_a[0] != yes_b[0] and (yes_a[1] or yes_b[1]))


def _contains(long: list[str], short: list[str]) -> bool:
    """`short` stands in `long` as it is."""
    width = len(short)
    return any(long[i : i + width] == short for i in range(len(long) - width + 1))


@lru_cache(4096)
def _trigrams(text: str) -> Counter[str]:
    joined = f"  {' '.join(tokens(text))} "
    return Counter(joined[i : i + 3] for i in range(len(joined) - 2))


def _overlap(a: Counter[str], b: Counter[str]) -> float:
    """Share of items that both have (Dice)."""
    total = a.total() + b.total()
    return 2.0 * (a & b).total() / total if total else 0.0
