"""The vectors that small classifiers are trained on: those of the embedder that serves, in the precision that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from connectors.onnx.embedder import OnnxEmbedder
from connectors.onnx.session import Precision
from numpy.typing import NDArray

from infra import models
from infra.settings import Settings

Floats = NDArray[np.float32]
_AT_ONCE = 512  # bounds the memory; batches inside are smaller


def embedder(settings: Settings, precision: Precision) -> OnnxEmbedder:
    """The embedder of the settings, fetched first where it is missing. Raises what pulling and loading raise."""
    return OnnxEmbedder(models.pull(settings, settings.embedder, lambda _: None), precision)


def vectors_of(settings: Settings, texts: Sequence[str], precision: Precision) -> Floats:
    """Vectors (texts, dimensions): about 300 texts/s on one core in float, and more in int8."""
    by = embedder(settings, precision)
    found: Floats = np.concatenate([by.embed(texts[at : at + _AT_ONCE]) for at in range(0, len(texts), _AT_ONCE)])
    return found
