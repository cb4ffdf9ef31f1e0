"""Whether a candidate may be served: a rule for each entry that learns from its observations and keeps an error bound.

Source: vCache (Schroeder et al., arXiv 2502.03771), written from the paper. What it says, and what is different here:

*Model.* A known entry meets queries with a score s in [0, 1] (a cosine, or better a verifier's probability). Its answer is right for a
query with probability L(s; t, g) = 1 / (1 + exp(-g (s - t))), with a threshold t and a steepness g of its own.

*The paper's rule.* Explore (ask the model) with probability tau, else exploit (serve). Explored queries are right, so
P(wrong) = (1 - tau) (1 - P(right | s)) <= delta asks for tau >= 1 - delta / (1 - P(right | s)). P(right | s) is unknown; with confidence
1 - eps it is at least L(s) at the edge (t', g') of the confidence region, so a = (1 - eps) L(s; t', g') is a lower bound of it for every
eps, and the best eps gives the smallest tau. Here (`certainty="band"`) the region is the posterior's: over all its quantiles,
a(s) = max over x of x P(L(s) >= x), which goes over t', g' and eps at once. The posterior lives on a grid: no optimiser, and it stays
proper where right and wrong observations don't overlap, which is the usual case and has no maximum-likelihood estimate.

*Prior.* Most entries meet one or two queries, and no bound of one entry alone can be kept at 2% before about 150 observations. The
prior is the distribution of (t, g) over entries, learnt on calibration data (`fit_prior`). `certainty="predictive"` takes
a(s) = E[L(s) | observations], which is P(right | observations, s) itself where the prior holds.

*What is bounded.* `over="queries"` is the paper's: wrong answers among ALL queries, the explored ones included. Then even a hopeless
candidate is served with probability delta, and the wrong share among what is SERVED is unbounded. `over="served"`, the default, serves
where a(s) >= 1 - delta and nothing else, which bounds both.

*What is guaranteed, and when.*
- band: each query's P(wrong) <= delta if the entry's curve is logistic, its observations are independent given their scores, and the
  prior has mass there. Which queries are observed may depend on the score and on what was seen before: that cancels in the likelihood.
- predictive: P(wrong | served) <= delta on average over entries that come from the population that the prior was learnt on. A single
  entry may be worse until it has been observed. The error of the prior's estimate is not in it: leave it a margin (a smaller delta).
- Neither holds when the traffic or the answers drift. Nothing here can notice that; `streams/semantic/assurance.py` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 200
"""Scores are kept to 1/200. A decision rounds down, which is safe since every curve rises."""
_DIFFUSE_ENTRIES = 1.0
"""The learnt prior is mixed with the flat one as if this many more entries had been seen: an entry like no other can be learnt."""
_FLOOR = 1e-12


class Observation(NamedTuple):
    """A query that met the entry: its score in [0, 1], and whether the entry's answer was right for it."""

    score: float
    correct: bool


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """A distribution of (t, g) over entries: support points and weights that sum to 1, all of shape (m,)."""

    thresholds: Floats
    steepness: Floats
    weights: Floats

    def to_rows(self) -> list[tuple[float, float, float]]:
        """(t, g, weight) of each point, for a JSON file."""
        return [(float(t), float(g), float(w)) for t, g, w in zip(self.thresholds, self.steepness, self.weights, strict=True)]

    @staticmethod
    def from_rows(rows: Iterable[Sequence[float]]) -> Prior:
        """What `to_rows` gave; weights are scaled to sum to 1. Raises ValueError where they can't be."""
        table = np.asarray(list(rows), dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != 3 or not np.isfinite(table).all() or (table[:, 2] < 0).any() or table[:, 2].sum() <= 0:
            raise ValueError("a prior is rows of (threshold, steepness, weight >= 0)")
        return Prior(table[:, 0], table[:, 1], table[:, 2] / table[:, 2].sum())


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """What is known of one entry. `curve[i]`: lower bound of P(right) at score i/200. About 2 KB where there are observations."""

    observations: tuple[Observation, ...]
    curve: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Decision:
    """`probability`: that the answer is right, as far as is known. `explore`: tau, the chance with which the model was to be asked."""

    serve: bool
    probability: float
    explore: float
    reason: str


class DecisionRule:
    """Immutable; one for all entries. An observation costs about 0.3 ms (band: 3 ms) with the flat prior, a decision 2 µs."""

    def __init__(
        self,
        prior: Prior,
        delta: float,
        *,
        over: Literal["served", "queries"] = "served",
        certainty: Literal["predictive", "band"] = "predictive",
        keep: int = 64,
    ) -> None:
        """`delta`: the bound, in (0, 1). `keep`: observations an entry keeps, the newest, so that old ones don't outvote a change."""
        if not 0.0 < delta < 1.0:
            raise ValueError(f"delta is a share between 0 and 1, not {delta}")
        self.delta = delta
        self.over = over
        self.certainty = certainty
        self.keep = keep
        right = _right(prior, np.arange(_STEPS + 1) / _STEPS)
        self._right = right
        self._log = np.stack([np.log(np.maximum(1.0 - right, _FLOOR)), np.log(np.maximum(right, _FLOOR))])  # (wrong/right, score, point)
        self._log_prior = np.log(np.maximum(prior.weights, 1e-300))
        self.fresh = Belief((), self._curve(self._log_prior))
        """Of an entry that nobody has asked about yet."""

    def learn(self, belief: Belief, *observations: Observation) -> Belief:
        """The belief with more observations."""
        kept = (*belief.observations, *observations)[-self.keep :]
        if not kept:
            return self.fresh
        rows = [_nearest(o.score) for o in kept]
        likelihood = self._log[[int(o.correct) for o in kept], rows].sum(axis=0)
        return Belief(kept, self._curve(self._log_prior + likelihood))

    def decide(self, belief: Belief, score: float, draw: float) -> Decision:
        """Serve or not. `draw`: uniform in [0, 1), the caller's randomness. A score that is no number is never served."""
        probability = float(belief.curve[int(min(score, 1.0) * _STEPS)]) if score >= 0.0 else 0.0
        if self.over == "served":
            explore = 0.0 if probability >= 1.0 - self.delta else 1.0
        else:
            explore = max(0.0, 1.0 - self.delta / max(1.0 - probability, _FLOOR))
        serve = draw >= explore
        seen = len(belief.observations)
        reason = f"right with probability {probability:.4f} by {seen} observations, bound {1.0 - self.delta:.4f}"
        return Decision(serve, probability, explore, reason)

    def _curve(self, log_weights: Floats) -> NDArray[np.float32]:
        weights = np.exp(log_weights - log_weights.max())
        weights /= weights.sum()
        kept = np.flatnonzero(weights > 1e-7)  # the rest, under 1e-4 in all, counts as never right
        right, weights = self._right[:, kept], weights[kept]
        if self.certainty == "predictive":
            curve = right @ weights
        else:
            order = np.argsort(right, axis=1)
            at_least = np.cumsum(weights[order][:, ::-1], axis=1)[:, ::-1]  # P(L >= this point's), points in rising order
            curve = (np.take_along_axis(right, order, axis=1) * at_least).max(axis=1)
        # rising already but for rounding; float32 rounds to nearest, so one step down keeps it a lower bound
        return np.nextafter(np.minimum.accumulate(curve[::-1])[::-1].astype(np.float32), np.float32(0.0))


def flat_prior() -> Prior:
    """Knows nothing: thresholds beyond both ends of the scores (an entry may be right always, or never), steepness over two decades."""
    thresholds, steepness = np.meshgrid(np.linspace(-0.5, 1.5, 81), np.geomspace(4.0, 256.0, 10), indexing="ij")
    return Prior(thresholds.ravel(), steepness.ravel(), np.full(thresholds.size, 1.0 / thresholds.size))


def fit_prior(observations_by_entry: Iterable[Sequence[Observation]], rounds: int = 200) -> Prior:
    """Distribution of (t, g) under which all entries' observations are likeliest (Kiefer & Wolfowitz 1956, by EM on the flat grid).

    Entries with one observation are welcome: they tell how often a score is right on average, those with more how entries differ.
    30,000 entries take about a minute and 200 MB; points without weight are dropped.
    """
    flat = flat_prior()
    log = [np.log(np.maximum(side, _FLOOR)) for right in [_right(flat, np.arange(_STEPS + 1) / _STEPS)] for side in (1.0 - right, right)]
    seen: dict[tuple[tuple[int, bool], ...], int] = {}  # entries with the same observations count as one with a weight
    for entry in observations_by_entry:
        key = tuple(sorted((_nearest(o.score), o.correct) for o in entry))
        if key:
            seen[key] = seen.get(key, 0) + 1
    if not seen:
        return flat
    counts = np.array(list(seen.values()), dtype=np.float64)
    likelihood = np.empty((len(seen), flat.weights.size), dtype=np.float32)
    for row, key in enumerate(seen):
        total = np.sum([log[int(correct)][score] for score, correct in key], axis=0)
        likelihood[row] = np.exp(total - total.max())
    weights = flat.weights.copy()
    for _ in range(rounds):
        evidence = likelihood @ weights.astype(np.float32)
        weights = weights * ((counts / evidence).astype(np.float32) @ likelihood) / counts.sum()
        weights /= weights.sum()
    weights = np.where(weights < 1e-7, 0.0, weights)
    share = _DIFFUSE_ENTRIES / (_DIFFUSE_ENTRIES + counts.sum())
    return Prior(flat.thresholds, flat.steepness, (1.0 - share) * weights / weights.sum() + share * flat.weights)


def spread(probability: float) -> float:
    """A probability as a score that tells 0.99 from 0.999: its log odds, -8 to 8, on [0, 1]. Curves are logistic in it by nature."""
    odds = math.log(max(probability, _FLOOR)) - math.log(max(1.0 - probability, _FLOOR))
    return min(1.0, max(0.0, 0.5 + odds / 16.0))


def _right(prior: Prior, scores: Floats) -> Floats:
    """L(s; t, g), shape (scores, points)."""
    steep = prior.steepness[None, :] * (scores[:, None] - prior.thresholds[None, :])
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * steep)))  # the logistic function, without overflow


def _nearest(score: float) -> int:
    """Row of an observed score; what is no number counts as 0."""
    return round(min(1.0, score) * _STEPS) if score >= 0.0 else 0
