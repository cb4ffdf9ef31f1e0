"""The verifier: what ships is small and told about, what is pulled is made of it, and it tells same from other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from connectors.onnx.session import Precision
from connectors.onnx.verifier import SAME_WORDING, OnnxVerifier
from infra import models
from infra.models_convert_verifier import SHIPPED
from infra.settings import Settings
from infra.training.pairs import Pair, fold_of
from streams.semantic.decision import DecisionRule, Prior, spread
from streams.semantic.likeness import NAMES, features
from streams.semantic.texts import QuestionPair

SAME = QuestionPair(known="How can I lose weight quickly?", asked="What is the fastest way to lose weight?", similarity=0.93)
OTHER = QuestionPair(known="What is the best phone for photos?", asked="What is the best laptop for students?", similarity=0.76)


@pytest.fixture(scope="module")
def folder() -> Path:
    """The verifier of the settings, fetched and made where it is missing."""
    settings = Settings()
    return models.pull(settings, settings.verifier, print)


@pytest.mark.parametrize("precision", ["int8", "float"])
def test_same_is_likelier_than_other(folder: Path, precision: Precision) -> None:
    """Probabilities, in the order of the pairs."""
    found = OnnxVerifier(folder, precision).probabilities([OTHER, SAME])
    assert found.shape == (2,)
    assert found.dtype == np.float32
    assert 0 <= found[0] < found[1] <= 1


def test_one_wording_is_certain_whatever_the_network_says(folder: Path) -> None:
    """The commonest repeat: served at the default bound, without a look at the models."""
    pair = QuestionPair(known="What's the capital of France?", asked="what is the Capital of France", similarity=0.9)
    found = OnnxVerifier(folder).probabilities([OTHER, pair])
    assert found[1] == np.float32(SAME_WORDING)
    decision = json.loads((SHIPPED / "decision.json").read_text())
    rule = DecisionRule(Prior.from_rows(decision["prior"]), decision["bounds"]["0.02"]["margin"] * 0.02)
    assert rule.decide(rule.fresh, spread(float(found[1])), 0.0).serve
    assert not rule.decide(rule.fresh, spread(float(found[0])), 0.0).serve


def test_no_pairs_give_no_probabilities(folder: Path) -> None:
    """A look-up may find nothing."""
    assert OnnxVerifier(folder).probabilities([]).shape == (0,)


def test_a_batch_says_what_a_single_pair_says(folder: Path) -> None:
    """Padding has no weight in float; int8 scales with what is in its batch."""
    long = QuestionPair(known="Why? " * 60, asked="How " * 60, similarity=0.8)
    verifier = OnnxVerifier(folder, "float")
    alone = [float(verifier.probabilities([pair])[0]) for pair in (SAME, OTHER, long)]
    assert np.allclose(verifier.probabilities([SAME, OTHER, long]), alone, atol=1e-3)


def test_the_version_names_model_weights_and_precision(folder: Path) -> None:
    """Scores of two versions must not be mixed in one entry's observations."""
    versions = {OnnxVerifier(folder, precision).version for precision in ("int8", "float")}
    assert len(versions) == 2
    assert all(version.startswith(f"{folder.name}@") for version in versions)


def test_the_pulled_verifier_is_made_of_what_ships(folder: Path) -> None:
    """Whoever trains anew gives the catalogue's entry another name."""
    made_of = json.loads((folder / "verifier.json").read_text())["made_of"]
    assert made_of == {name: models.sha256_of(SHIPPED / name) for name in ("deltas.safetensors", "stack.onnx")}


def test_what_ships_is_small_and_has_a_card() -> None:
    """Under 5 MB; the card names data, licence and the command."""
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 5_000_000
    card = (SHIPPED / "CARD.md").read_text()
    for told in ("python -m infra.training.verifier", "qqp", "medical_mqp", "licence", "calibration"):
        assert told in card


def test_the_shipped_rule_serves_sure_pairs_alone() -> None:
    """Prior and margins are there, and a stricter bound asks for more."""
    decision = json.loads((SHIPPED / "decision.json").read_text())
    assert {"qqp", "medical_mqp"} == decision["sets"].keys()
    for learnt in (decision, *decision["sets"].values()):
        prior = Prior.from_rows(learnt["prior"])
        lowest = [found["lowest_score"] for found in learnt["bounds"].values() if found["lowest_score"] is not None]
        assert lowest == sorted(lowest, reverse=True)
        for bound, found in learnt["bounds"].items():
            rule = DecisionRule(prior, found["margin"] * float(bound))
            assert not rule.decide(rule.fresh, spread(0.5), 0.0).serve


def test_features_have_no_direction() -> None:
    """Whichever was known first."""
    turned = QuestionPair(known=SAME.asked, asked=SAME.known, similarity=SAME.similarity)
    assert features(SAME, len) == features(turned, len)
    assert len(features(SAME, len)) == len(NAMES)


def test_linked_questions_are_on_one_side() -> None:
    """The fold is the group's."""
    pairs = [Pair("qqp", f"a{n}", f"b{n}", True, f"g{n % 7}") for n in range(70)]
    folds = {pair.group: fold_of(pair, 10) for pair in pairs}
    assert all(fold_of(pair, 10) == folds[pair.group] for pair in pairs)
