"""From a classifier's scores on held-out rows to probabilities that mean what they say, and to the cut below which it doesn't know."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """confidence = sigmoid(slope * logit(score) + shift), after Platt, "Probabilistic outputs for support vector machines" (1999)."""

    slope: float
    shift: float

    def confidence(self, scores: Floats) -> Floats:
        """Calibrated probabilities of scores in [0, 1]."""
        found: Floats = 1 / (1 + np.exp(-(self.slope * logit(scores) + self.shift)))
        return found


def logit(scores: Floats) -> Floats:
    """Log odds, of scores kept off 0 and 1 as the ONNX graph keeps them."""
    inside = np.clip(scores, _EDGE, 1 - _EDGE)
    odds: Floats = np.log(inside / (1 - inside))
    return odds


def calibrate(scores: Floats, right: Bools, weights: Floats) -> Calibration:
    """Weighted maximum likelihood by Newton's method, with shorter steps where a whole one would lose; two parameters need few."""
    x = np.stack([logit(scores), np.ones_like(scores)], axis=1)
    sign = np.where(right, 1.0, -1.0)

    def loss(w: Floats) -> float:
        return float((weights * np.logaddexp(0, -sign * (x @ w))).sum())

    w = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (weights * (right - p)))
        while loss(w + step) > loss(w) and float(np.abs(step).max()) > 1e-9:
            step = step / 2
        w = w + step
        if float(np.abs(step).max()) < 1e-9:
            break
    return Calibration(float(w[0]), float(w[1]))


def cut_for(confidence: Floats, right: Bools, in_scope: Bools, *, precision: float, recall: float) -> float:
    """The lowest cut at which the in-scope rows that it answers are right, and the out-of-scope ones refused, as often as wanted.

    Both by the lower end of their 95% interval on the held-out rows, so that chance does not choose the cut. Where there is no row out
    of scope, only the first counts. Raises ValueError where no cut does.
    """
    for cut in np.unique(np.floor(confidence * 1000) / 1000):
        answered = confidence >= cut
        told, refused = answered & in_scope, ~answered & ~in_scope
        good = lower_bound(int((told & right).sum()), int(told.sum())) >= precision
        outside = int((~in_scope).sum())
        if good and (not outside or lower_bound(int(refused.sum()), outside) >= recall):
            return float(cut)
    raise ValueError("no cut reaches the wanted precision and recall on the held-out rows")


def lower_bound(hits: int, count: int) -> float:
    """Lower end of the 95% interval of a share (Wilson, 1927)."""
    return interval(hits, count)[0]


def interval(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927); (0, 1) for none of none."""
    if not count:
        return 0.0, 1.0
    share = hits / count
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (centre - half) / (1 + z * z / count), (centre + half) / (1 + z * z / count)


def expected_calibration_error(confidence: Floats, right: Bools, bins: int = 15) -> float:
    """Mean distance of confidence and share right over equally wide bins, weighted by their rows (Guo et al., ICML 2017)."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float(confidence[which == b].mean()) - float(right[which == b].mean())) * int((which == b).sum()) for b in np.unique(which)]
    return sum(gaps) / max(1, len(confidence))
