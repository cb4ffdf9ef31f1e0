"""Where to serve: the decision rule's prior, and by how much a bound is tightened, so that it holds for texts that nobody has seen.

The prior says how often a score is right on average over entries; that it was estimated is not in it. So a bound of 2% is given to the
rule as `margin` x 2%, with the largest margin under which, on every source of held-out pairs by itself, the measured wrong share keeps
the bound and its upper 95% bound (Clopper-Pearson) keeps one and a half times the bound where there are enough hits to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streams.semantic.assurance import clopper_pearson_upper
from streams.semantic.decision import DecisionRule, Observation, Prior, fit_prior, spread

BOUNDS = (0.01, 0.02, 0.03, 0.05, 0.1)
MARGINS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_ENOUGH = 150  # hits; fewer can't prove 2% even if all are right


def learn(probabilities: np.ndarray, same: np.ndarray, sources: np.ndarray) -> dict[str, Any]:
    """What decision.json holds: the prior's rows and each bound's margin, over all sources and, under `sets`, for each by itself."""
    scores = np.array([spread(float(p)) for p in probabilities])
    by_set = {str(source): _learn(*(values[sources == source] for values in (scores, same, sources))) for source in np.unique(sources)}
    return {**_learn(scores, same, sources), "sets": by_set}


def _learn(scores: np.ndarray, same: np.ndarray, sources: np.ndarray) -> dict[str, Any]:
    prior = fit_prior([[Observation(float(score), bool(right))] for score, right in zip(scores, same, strict=True)])
    rows = [tuple(float(f"{value:.4g}") for value in row) for row in prior.to_rows() if row[2] > 1e-6]
    kept = Prior.from_rows(rows)
    return {"prior": rows, "bounds": {str(bound): _margin(kept, bound, scores, same, sources) for bound in BOUNDS}}


def served(prior: Prior, delta: float, scores: np.ndarray) -> np.ndarray:
    """(n,) bool: whether an entry without observations of its own is served at each score."""
    rule = DecisionRule(prior, delta)
    return np.array([rule.decide(rule.fresh, float(score), 0.0).serve for score in scores], bool)


def _margin(prior: Prior, bound: float, scores: np.ndarray, same: np.ndarray, sources: np.ndarray) -> Mapping[str, Any]:
    measured: dict[str, Any] = {}
    for margin in MARGINS:
        serve = served(prior, margin * bound, scores)
        measured = {str(source): _counts(serve & (sources == source), same) for source in np.unique(sources)}
        if all(_holds(count, bound) for count in measured.values()):
            return {"margin": margin, "lowest_score": float(scores[serve].min()) if serve.any() else None, "held_out": measured}
    return {"margin": 0.0, "lowest_score": None, "held_out": measured}


def _counts(serve: np.ndarray, same: np.ndarray) -> dict[str, Any]:
    hits, wrong = int(serve.sum()), int((serve & ~same).sum())
    return {"hits": hits, "wrong": wrong, "upper_95": clopper_pearson_upper(wrong, hits) if hits else 1.0}


def _holds(count: Mapping[str, Any], bound: float) -> bool:
    hits, wrong = count["hits"], count["wrong"]
    return bool(wrong <= bound * hits and (hits < _ENOUGH or count["upper_95"] <= 1.5 * bound))


def told(facts: Mapping[str, Any]) -> list[str]:
    """Lines for a person who waits at the training."""
    return [
        f"{name}, bound {bound}: margin {found['margin']}, held out {found['held_out']}"
        for name, learnt in {"all": facts, **facts["sets"]}.items()
        for bound, found in learnt["bounds"].items()
    ]
