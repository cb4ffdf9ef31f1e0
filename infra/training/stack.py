"""The classifier on top: trees and a linear model that vote over the network's logit and the words' features, written as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def new() -> Any:
    """Small and flat models of three kinds, since labels are noisy and pairs are thousands: their errors are not the same."""
    from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, VotingClassifier  # noqa: PLC0415  # for development
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    boosted = GradientBoostingClassifier(
        n_estimators=150, max_depth=3, learning_rate=0.05, subsample=0.6, min_samples_leaf=40, max_features=8, random_state=0
    )
    grown = ExtraTreesClassifier(150, min_samples_leaf=20, max_features=8, random_state=0)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=500))
    return VotingClassifier([("boosted", boosted), ("grown", grown), ("linear", linear)], voting="soft", flatten_transform=False)


def cross_validated(rows: np.ndarray, same: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(n,) probabilities, each by a classifier that saw no row of its fold."""
    found = np.empty(len(rows))
    for fold in np.unique(folds):
        out = folds == fold
        found[out] = new().fit(rows[~out], same[~out]).predict_proba(rows[out])[:, 1]
    return found


def train(rows: np.ndarray, same: np.ndarray, path: Path) -> None:
    """Fit on all rows and write ONNX: input `features` (n, columns) float32, outputs label and probabilities (n, 2).

    Raises ValueError where the written graph says something else than what was fitted.
    """
    import onnxruntime  # noqa: PLC0415  # beside skl2onnx, which is for development
    from skl2onnx import to_onnx  # noqa: PLC0415
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415

    fitted = new().fit(rows, same.astype(np.int64))
    graph = to_onnx(fitted, initial_types=[("features", FloatTensorType([None, rows.shape[1]]))], options={"zipmap": False})
    path.write_bytes(graph.SerializeToString())
    written = onnxruntime.InferenceSession(str(path)).run(None, {"features": rows})[1][:, 1]
    far = float(np.abs(written - fitted.predict_proba(rows)[:, 1]).max())
    if far > 0.01:
        raise ValueError(f"the written classifier differs from the fitted one by {far:.3f}")
