"""The per-entry rule on a stream: questions of each group arrive one by one, what was asked of the model is learnt from.

The labels of pairs make classes (joined by `same`), and classes of one group are known to differ where a label says so. A question is
compared with the nearest known one of its group whose relation to it is known; what no label connects is left out, since it may ask the
same.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.training.pairs import Pair
from streams.semantic.assurance import clopper_pearson_upper
from streams.semantic.decision import Belief, DecisionRule, Observation, spread
from streams.semantic.gates import gate
from streams.semantic.texts import PairVerifier, QuestionPair


@dataclass(slots=True)
class Labels:
    """Classes of texts, and which classes are known to differ."""

    parent: dict[str, str] = field(default_factory=dict)
    apart: set[frozenset[str]] = field(default_factory=set)

    def root(self, text: str) -> str:
        """The class of a text."""
        while self.parent.setdefault(text, text) != text:
            text = self.parent[text]
        return text

    def same(self, a: str, b: str) -> bool | None:
        """Whether both ask the same; None where no label says."""
        x, y = self.root(a), self.root(b)
        return True if x == y else False if frozenset((x, y)) in self.apart else None


def labels_of(pairs: Sequence[Pair]) -> Labels:
    """From all labelled pairs. A pair that is called different, and is the same by others, is the same: labels are noisy."""
    labels = Labels()
    for pair in pairs:
        a, b = labels.root(pair.cached), labels.root(pair.query)
        if pair.same:
            labels.parent[a] = b
    labels.apart = {frozenset((labels.root(p.cached), labels.root(p.query))) for p in pairs if not p.same}
    return labels


def streams(pairs: Sequence[Pair], seed: int, least: int = 4) -> Iterator[list[str]]:
    """The texts of each group with at least `least`, in random order."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for pair in pairs:
        groups[pair.group].update({pair.cached: None, pair.query: None})
    source = random.Random(seed)
    for texts in groups.values():
        if len(texts) >= least:
            yield source.sample(list(texts), len(texts))


Met = tuple[str, str, float, bool]
"""(known, asked, cosine, same)"""


def candidates(pairs: Sequence[Pair], vectors: Mapping[str, np.ndarray], floor: float, seed: int = 11) -> list[Met]:
    """Each question of the stream with its nearest known one. Every text becomes known, so that one list serves all rules."""
    labels, found = labels_of(pairs), []
    for texts in streams(pairs, seed):
        known: list[str] = []
        for text in texts:
            near = [(float(vectors[text] @ vectors[other]), other) for other in known if labels.same(text, other) is not None]
            if near and max(near)[0] >= floor:
                cosine, other = max(near)
                found.append((other, text, cosine, bool(labels.same(text, other))))
            known.append(text)
    return found


def scores_of(met: Sequence[Met], verifier: PairVerifier) -> list[float]:
    """What the rule decides on."""
    pairs = [QuestionPair(known=known, asked=asked, similarity=cosine) for known, asked, cosine, _ in met]
    return [spread(float(p)) for p in verifier.probabilities(pairs)]


def replay(met: Sequence[Met], scores: Sequence[float], rule: DecisionRule, learn: bool) -> dict[str, Any]:
    """Serve or ask, and learn from what was asked; counts."""
    beliefs: dict[str, Belief] = {}
    hits = wrong = right = 0
    for (known, asked, _, same), score in zip(met, scores, strict=True):
        right += same
        if gate(asked, known):
            continue
        belief = beliefs.get(known, rule.fresh)
        if rule.decide(belief, score, 0.0).serve:
            hits += 1
            wrong += not same
        elif learn:
            beliefs[known] = rule.learn(belief, Observation(score, same))
    return {
        "queries": len(met), "served": hits, "wrong": wrong, "wrong %": 100 * wrong / max(1, hits),
        "up 95 %": 100 * clopper_pearson_upper(wrong, hits) if hits else 100.0, "duplicates served %": 100 * (hits - wrong) / max(1, right),
    }  # fmt: skip
