"""Puts together what the inference and learning services know by: small models, the semantic tier, and what checks it."""

from __future__ import annotations

from pathlib import Path

from agents.small_models import SmallModelTier
from connectors.onnx.classifier import LABELS, OnnxClassifier
from connectors.onnx.embedder import OnnxEmbedder
from infra import models
from infra.settings import Settings
from streams.semantic.assurance import AssuranceRules
from streams.semantic.decision import DecisionRule, Prior
from streams.semantic.trust import TrustSettings

SHIPPED = Path(__file__).parent / "shipped"


def embedder(settings: Settings, threads: int = 1) -> OnnxEmbedder:
    """The embedding model of the settings. Raises ModelNotPulled."""
    return OnnxEmbedder(models.folder(settings, settings.embedder), settings.embedder_precision, threads, settings.device)


def small_models(settings: Settings, embedding: OnnxEmbedder) -> SmallModelTier:
    """The models of the tasks embed and classify. A shipped classifier is left out where another embedder is configured than its own."""
    shipped = [OnnxClassifier(found.parent, settings.device) for found in sorted(SHIPPED.glob(f"*/{LABELS}"))]
    fitting = {classifier.name: classifier for classifier in shipped if classifier.embedder == settings.embedder}
    return SmallModelTier({settings.embedder: embedding}, fitting, dict.fromkeys(fitting, settings.embedder))


def trust(settings: Settings) -> TrustSettings:
    """How entries decide and what a scope has to hold, by the error bound of the settings."""
    rule = DecisionRule(Prior.from_rows([(0.8, 60.0, 0.9), (1.5, 60.0, 0.1)]), settings.semantic_error_bound)
    return TrustSettings(rule, AssuranceRules(limit=settings.semantic_error_bound, trusted_share=settings.semantic_check_share))
