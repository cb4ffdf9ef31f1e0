"""Puts the small-model tier together: the embedder of the settings, and the classifiers that ship."""

from __future__ import annotations

from pathlib import Path

from agents.small_models import SmallModelTier
from connectors.onnx.classifier import LABELS, OnnxClassifier
from infra.models import PROJECT
from infra.settings import Settings
from streams.errors import PoisonError
from streams.semantic.texts import Embedder

SHIPPED = PROJECT / "infra" / "shipped"


class OtherEmbedder(PoisonError):
    """A shipped classifier was trained on another embedder's vectors: set that embedder, or train the classifier anew on this one's."""


def classifier_folders() -> list[Path]:
    """Folders of the classifiers that ship, by name."""
    return sorted(path.parent for path in SHIPPED.glob(f"*/{LABELS}"))


def small_model_tier(settings: Settings, embedder: Embedder) -> SmallModelTier:
    """The tier, with one CPU thread for each classifier, or on the GPU of the settings. Raises OtherEmbedder, UnusableClassifier."""
    classifiers = {path.name: OnnxClassifier(path, settings.device) for path in classifier_folders()}
    for name, classifier in classifiers.items():
        if classifier.embedder != settings.embedder:
            reason = f"{name} was trained on vectors of {classifier.embedder}, and the settings say {settings.embedder}"
            raise OtherEmbedder("other_embedder", reason, f"HEADRACE_EMBEDDER={classifier.embedder}, or: python -m infra.training.{name}")
    return SmallModelTier({settings.embedder: embedder}, classifiers, dict.fromkeys(classifiers, settings.embedder))
