"""What a semantic cache serves on labelled pairs, by each rule: plain cosine, two published ones, gates, and the whole chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.training import operating
from infra.training.pairs import Pair
from streams.semantic.assurance import clopper_pearson_upper
from streams.semantic.decision import DecisionRule, Prior, spread
from streams.semantic.gates import gate
from streams.semantic.texts import Embedder, PairVerifier, QuestionPair

GPTCACHE = 0.6
"""GPTCache 0.1.44 serves where 4 - d >= 0.8 x 4, with d the squared Euclidean distance: for vectors of length 1, cosine >= 0.6."""
REDISVL = 0.9
"""RedisVL 0.28's SemanticCache serves where the cosine distance is at most 0.1."""
LEAST_HITS = 20  # a share of fewer is no share


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Labelled pairs with what the parts of the chain say of each, all of shape (pairs,). Probability is 0 where nobody asked."""

    same: np.ndarray
    cosine: np.ndarray
    opened: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """The parts, with what ships for them: the rule's prior, the margin of each bound, and the least cosine of a candidate."""

    embedder: Embedder
    verifier: PairVerifier
    prior: Prior
    margins: Mapping[float, float]
    floor: float

    @property
    def bounds(self) -> list[float]:
        """Those that calibration found to be possible."""
        return [bound for bound, margin in self.margins.items() if margin > 0]

    def rule(self, bound: float) -> DecisionRule:
        """The decision rule that keeps a bound."""
        return DecisionRule(self.prior, self.margins[bound] * bound)


def judge(pairs: Sequence[Pair], cosine: np.ndarray, chain: Chain) -> Judged:
    """Ask gates, and the verifier where a look-up would have returned the pair and no gate refuses."""
    opened = np.array([gate(pair.query, pair.cached) == "" for pair in pairs])
    rows = np.flatnonzero(opened & (cosine >= chain.floor)).tolist()
    asked = [QuestionPair(known=pairs[row].cached, asked=pairs[row].query, similarity=float(cosine[row])) for row in rows]
    probability = np.zeros(len(pairs))
    probability[rows] = chain.verifier.probabilities(asked)
    return Judged(np.array([pair.same for pair in pairs]), cosine, opened, probability)


def served_by_chain(judged: Judged, chain: Chain, bound: float) -> np.ndarray:
    """(pairs,) bool: what gates, verifier and the decision rule serve where an entry has no observations of its own."""
    scores = np.array([spread(float(p)) for p in judged.probability])
    return operating.served(chain.prior, chain.margins[bound] * bound, scores) & (judged.probability > 0)


def counted(rule: str, serve: np.ndarray, same: np.ndarray) -> dict[str, Any]:
    """A row of the table: shares, and the wrong share's exact interval (95% each side, Clopper-Pearson)."""
    hits, wrong = int(serve.sum()), int((serve & ~same).sum())
    lower = 1.0 - clopper_pearson_upper(hits - wrong, hits) if hits else 0.0
    return {
        "rule": rule,
        "served": hits,
        "wrong": wrong,
        "wrong %": 100 * wrong / hits if hits else 0.0,
        "low 95 %": 100 * lower,
        "up 95 %": 100 * clopper_pearson_upper(wrong, hits) if hits else 100.0,
        "duplicates served %": 100 * (hits - wrong) / max(1, int(same.sum())),
    }


def curve(order: np.ndarray, allowed: np.ndarray, same: np.ndarray) -> list[tuple[float, float]]:
    """(share of duplicates served, wrong share) for each number of pairs served, the highest `order` first; at most 200 points."""
    rows = np.flatnonzero(allowed)
    rows = rows[np.argsort(-order[rows], kind="stable")]
    right = np.cumsum(same[rows])
    hits = np.arange(1, len(rows) + 1)
    chosen = np.unique(np.geomspace(LEAST_HITS, len(rows), 200).astype(int)) - 1 if len(rows) >= LEAST_HITS else np.array([], int)
    return [(float(right[i] / max(1, same.sum())), float(1 - right[i] / hits[i])) for i in chosen]


def best_threshold(cosine: np.ndarray, same: np.ndarray, bound: float) -> tuple[float, np.ndarray]:
    """The cosine threshold that serves most and is wrong in at most `bound`, chosen with the answers in hand; (2, nothing) if none is.

    No cache could know it: it is what plain cosine can do at best.
    """
    order = np.argsort(-cosine, kind="stable")
    wrong = np.cumsum(~same[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero((wrong <= bound) & (np.arange(len(order)) >= LEAST_HITS - 1))
    if not len(good):
        return 2.0, np.zeros(len(same), bool)
    threshold = float(cosine[order[good[-1]]])
    return threshold, cosine >= threshold
