"""The vectors that small classifiers are trained on: those of the embedder that serves, kept between runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectors.onnx.embedder import OnnxEmbedder
from connectors.onnx.session import Precision
from infra import models
from infra.settings import Settings

Floats = NDArray[np.float32]
_KEPT = Path(".headrace-bench/vectors")


def embedder(settings: Settings, precision: Precision) -> OnnxEmbedder:
    """The embedder of the settings, fetched first where it is missing. Raises what pulling and loading raise."""
    return OnnxEmbedder(models.pull(settings, settings.embedder, lambda _: None), precision)


def vectors_of(settings: Settings, texts: Sequence[str], precision: Precision) -> Floats:
    """Vectors (texts, dimensions): about 300 texts/s on one core, the first time. They lie under a digest of all that they depend on."""
    by = embedder(settings, precision)
    digest = hashlib.sha256("\0".join([by.version, *texts]).encode()).hexdigest()[:24]
    path = _KEPT / f"{digest}.npy"
    if not path.exists():
        _KEPT.mkdir(parents=True, exist_ok=True)
        np.save(path, by.embed(texts))
    found: Floats = np.load(path)
    return found
