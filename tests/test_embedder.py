"""The embedder: vectors of length 1 that don't depend on the batch, near in meaning where the texts are; and broken folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from connectors.onnx.embedder import OnnxEmbedder
from connectors.onnx.session import BrokenModel, Precision, by_length, providers
from infra import models
from infra.settings import Settings

TEXTS = ["How do I reset my password?", "I forgot my password, how can I set a new one?", "Best pizza in Naples", "Hi", "long " * 400]


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model of the settings, fetched where it is missing."""
    settings = Settings()
    return models.pull(settings, settings.embedder, print)


@pytest.mark.parametrize("precision", ["int8", "float"])
def test_vectors_are_of_length_one_and_in_order(folder: Path, precision: Precision) -> None:
    """Also of a text that is cut; and what means the same is nearest."""
    embedder = OnnxEmbedder(folder, precision)
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.7
    assert vectors[0] @ vectors[2] < 0.3
    assert embedder.embed([]).shape == (0, embedder.dimensions)


def test_a_batch_says_what_a_single_text_says(folder: Path) -> None:
    """Padding has no weight. int8 scales with what is in its batch, so it is only near."""
    cases: tuple[tuple[Precision, float], ...] = (("float", 0.9999), ("int8", 0.97))
    for precision, least in cases:
        embedder = OnnxEmbedder(folder, precision)
        together = embedder.embed(TEXTS)
        alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
        assert (together * alone).sum(1).min() > least, precision


def test_the_version_names_weights_and_precision(folder: Path) -> None:
    """Two precisions never share vectors; the digest is that of the weights which were converted."""
    digest = json.loads((folder / "embedding.json").read_text())["weights_sha256"][:12]
    assert OnnxEmbedder(folder, "int8").version == f"all-minilm-l6-v2@{digest}/int8"
    assert OnnxEmbedder(folder, "float").version == f"all-minilm-l6-v2@{digest}/float"


def test_a_broken_folder_is_told(folder: Path, tmp_path: Path) -> None:
    """Missing, cut and senseless files are one kind of error, with its remedy."""
    with pytest.raises(BrokenModel) as missing:
        OnnxEmbedder(tmp_path)
    assert "models pull" in missing.value.remedy
    for name in ("embedding.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "int8.onnx").write_bytes(b"no model")
    with pytest.raises(BrokenModel, match=r"int8.onnx"):
        OnnxEmbedder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BrokenModel, match=r"tokenizer.json"):
        OnnxEmbedder(tmp_path)


def test_batches_hold_all_positions_by_length() -> None:
    """Each once; no batch mixes short and long ones where there are enough."""
    lengths = [n % 100 + 1 for n in range(1000)]
    batches = list(by_length(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    assert max(max(lengths[r] for r in b) - min(lengths[r] for r in b) for b in batches) < 10


def test_the_cpu_serves_where_there_is_no_gpu() -> None:
    """Whatever the setting says."""
    assert providers("cpu") == ["CPUExecutionProvider"]
    assert providers("cuda:1")[-1] == "CPUExecutionProvider"
