"""A text classifier in ONNX: what `infra/training/intents.py` wrote, behind the port `streams.small_models.TextClassifier`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from connectors.onnx import ngrams
from connectors.onnx.session import BrokenModel, open_session
from streams.errors import PoisonError
from streams.small_models import Label, Vectors

MODEL, LABELS = "model.onnx", "labels.json"


class UnusableClassifier(PoisonError):
    """The folder holds no classifier that fits: make it anew with the command on its card, for the embedder that is configured."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__("unusable_classifier", f"{folder.name}: {reason}", "see CARD.md in its folder for the command that makes it")


class OnnxClassifier:
    """Adapter of `TextClassifier`.

    `folder` has model.onnx and labels.json; its name is the classifier's. `version` is a digest of both, so that whatever changes an
    answer changes it. `embedder` is the one whose vectors it was trained on. `device` is cpu, cuda, cuda:N or auto, as for every
    ONNX model.
    """

    def __init__(self, folder: Path, device: str = "auto", threads: int = 1) -> None:
        try:
            model, about = (folder / MODEL).read_bytes(), (folder / LABELS).read_bytes()
            facts: dict[str, Any] = json.loads(about)
            self._in_scope = tuple(map(str, facts["labels"]))
            self.out_of_scope, self.cut = str(facts["out_of_scope"]), float(facts["cut"])
            self.embedder, self._buckets = str(facts["embedder"]), int(facts["buckets"])
        except (OSError, ValueError, KeyError) as error:
            raise UnusableClassifier(folder, f"{type(error).__name__}: {error}") from error
        self.name = folder.name
        self.version = hashlib.sha256(model + about).hexdigest()[:12]
        self.labels = (*self._in_scope, *([self.out_of_scope] if self.out_of_scope else []))
        try:
            self._session = open_session(folder / MODEL, threads, device)
        except BrokenModel as error:
            raise UnusableClassifier(folder, str(error)) from error

    def classify(self, texts: Sequence[str], vectors: Vectors) -> list[Label]:
        """The likeliest label of each text, out of scope included. Computes without the interpreter's lock."""
        if not texts:
            return []
        fed = {"vectors": np.ascontiguousarray(vectors, dtype=np.float32), "ngrams": ngrams.rows(texts, self._buckets)}
        found, confidences = self._session.run(["label", "confidence"], fed)
        return [Label(self.labels[index], float(sure)) for index, sure in zip(found.tolist(), confidences.tolist(), strict=True)]

    def knows(self, label: Label) -> bool:
        """Whether it is in scope, and at least as sure as the cut."""
        return label.label != self.out_of_scope and label.confidence >= self.cut
