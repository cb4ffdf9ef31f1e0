"""Trains the intent classifier that ships: `python -m infra.training.intents`, two minutes on one core, the same again by its seed.

Everything is chosen on held-out rows of CLINC150's calibration part: the recipe, the calibration and the cut.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from connectors.onnx import ngrams
from connectors.onnx.classifier import LABELS, MODEL
from infra.settings import Settings
from infra.small_models import SHIPPED
from infra.training.calibrating import Bools, Calibration, calibrate, cut_for, expected_calibration_error
from infra.training.calibrating import Floats as Scores
from infra.training.card import card
from infra.training.intent_graph import graph
from infra.training.intent_net import Floats, IntentNet, Ints, Recipe, fit, probabilities
from infra.training.intent_rows import Rows, read
from infra.training.vectors import vectors_of

DATA = Path("intents/clinc150.calibration.csv.gz")
FOLDS = 3
# What a deployment is taken to see, which the calibration is made for: the data has 2% out of scope in training and 18% in its test.
SHARE_OUT_OF_SCOPE = 0.1
PRECISION, RECALL = 0.97, 0.87  # of the answers in scope, and of refusing what is out of scope: see `cut_for`


@dataclass(frozen=True, slots=True)
class Trained:
    """The networks, how sure they are when they are right, the cut, and what the held-out rows say of it all."""

    nets: list[IntentNet]
    calibration: Calibration
    cut: float
    held_out: dict[str, float]


def train(rows: Rows, vectors: Floats, recipe: Recipe, report: Callable[[str], None]) -> Trained:
    """Fit on all rows; calibrate and choose the cut on held-out ones. `vectors` (rows, dimensions) are the texts' embeddings.

    Raises ValueError where no cut is good enough.
    """
    torch.set_num_threads(1)  # other thread counts add in another order, and end in other weights
    seen = _Seen(rows, vectors, ngrams.rows(rows.texts, recipe.buckets))
    where, scores = _held_out_scores(seen, recipe, report)
    truth, label, best = rows.classes[where], scores.argmax(1), scores.max(1)
    in_scope, told = truth != rows.outside, label != rows.outside
    right = (label == truth) & in_scope
    calibration = calibrate(best[told], right[told], _weights(in_scope)[told])
    confidence = np.where(told, calibration.confidence(best), 0.0)  # what is called out of scope is never an answer
    cut = cut_for(confidence, right, in_scope, precision=PRECISION, recall=RECALL)
    everything = np.ones(len(rows.classes), dtype=np.bool_)
    return Trained(_fit(seen, everything, recipe), calibration, cut, figures(confidence, right, in_scope, cut))


def figures(confidence: Scores, right: Bools, in_scope: Bools, cut: float) -> dict[str, float]:
    """Shares at the cut, and the calibration's error over what is not called out of scope (confidence 0)."""
    answered = (confidence >= cut) & in_scope
    told = confidence > 0
    return {
        "right over all in scope": float((answered & right).sum() / max(1, in_scope.sum())),
        "right among the answered in scope": float((answered & right).sum() / max(1, answered.sum())),
        "out of scope refused": float(((confidence < cut) & ~in_scope).sum() / max(1, (~in_scope).sum())),
        "expected calibration error": expected_calibration_error(confidence[told], right[told]),
    }


def write(trained: Trained, rows: Rows, recipe: Recipe, embedder: str, folder: Path) -> None:
    """Write model.onnx and labels.json, which make the classifier."""
    outside = rows.outside if rows.outside >= 0 else None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(graph(trained.nets, trained.calibration, outside))
    facts = {
        "labels": [name for number, name in enumerate(rows.names) if number != rows.outside],
        "out_of_scope": rows.names[rows.outside] if rows.outside >= 0 else "",
        "cut": trained.cut,
        "embedder": embedder,
        "buckets": recipe.buckets,
    }
    (folder / LABELS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Seen:
    """Rows as the networks see them: a vector and n-grams for each."""

    rows: Rows
    vectors: Floats
    grams: Ints


def _held_out_scores(seen: _Seen, recipe: Recipe, report: Callable[[str], None]) -> tuple[Ints, Scores]:
    """Indices of the held-out rows, and their probabilities (rows, classes) by networks that saw none of those in scope.

    Rows out of scope are too few to do without a part of them, so each is left out once.
    """
    rows = seen.rows
    is_outside = rows.classes == rows.outside
    number_in = np.zeros(len(rows.classes), dtype=np.int64)
    for kind in (is_outside, rows.held & ~is_outside):
        number_in[kind] = np.random.default_rng(recipe.seed).permutation(int(kind.sum())) % FOLDS
    folds = FOLDS if is_outside.any() else 1
    where, scores = [], []
    for fold in range(folds):
        mine = (number_in == fold) | (folds == 1)
        asked = (is_outside | rows.held) & mine
        nets = _fit(seen, ~asked & ~(rows.held & ~is_outside), replace(recipe, seed=recipe.seed + 100 * (fold + 1)))
        where.append(np.flatnonzero(asked))
        scores.append(probabilities(nets, seen.vectors[asked], seen.grams[asked]))
        report(f"held out {fold + 1} of {folds}: {int(asked.sum())} rows")
    return np.concatenate(where), np.concatenate(scores)


def _fit(seen: _Seen, on: Bools, recipe: Recipe) -> list[IntentNet]:
    x, g, y = seen.vectors[on], seen.grams[on], seen.rows.classes[on]
    seeds = range(recipe.seed, recipe.seed + recipe.members)
    weights = np.where(np.arange(len(seen.rows.names)) == seen.rows.outside, recipe.outside_weight, 1.0).astype(np.float32)
    return [fit(x, g, y, replace(recipe, seed=seed), weights) for seed in seeds]


def _weights(in_scope: Bools) -> Scores:
    """Weights with which rows out of scope are the share that a deployment is taken to see."""
    inside, outside = int(in_scope.sum()), int((~in_scope).sum())
    heavier = SHARE_OUT_OF_SCOPE / (1 - SHARE_OUT_OF_SCOPE) * inside / outside if outside else 1.0
    return np.where(in_scope, 1.0, heavier)


def main() -> None:
    """Train, and write the classifier with its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=SHIPPED / "intents", help="folder to write; its name is the classifier's")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    settings, recipe, began = Settings(), Recipe(seed=asked.seed), time.monotonic()

    def report(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:5.0f} s  {text}\n")
        sys.stdout.flush()

    rows = read(settings.data / DATA)
    vectors = vectors_of(settings, rows.texts, "int8")  # the precision that is served unless the settings say otherwise
    report(f"{len(rows.texts)} vectors")
    trained = train(rows, vectors, recipe, report)
    write(trained, rows, recipe, settings.embedder, asked.output)
    outside = int((rows.classes == rows.outside).sum())
    text = card(
        trained.held_out, name=asked.output.name, intents=len(rows.names) - 1, outside=rows.names[rows.outside], embedder=settings.embedder,
        width=recipe.width, buckets=recipe.buckets, hidden=recipe.hidden, members=recipe.members, rows=len(rows.texts),
        outside_rows=outside, size_mb=sum(path.stat().st_size for path in asked.output.glob("[ml]*")) / 1e6,
        seed=recipe.seed, cut=trained.cut,
        share=SHARE_OUT_OF_SCOPE, precision=PRECISION, recall=RECALL,
    )  # fmt: skip
    (asked.output / "CARD.md").write_text(text, encoding="utf-8")
    report(f"written to {asked.output}: " + ", ".join(f"{name} {value:.4f}" for name, value in trained.held_out.items()))


if __name__ == "__main__":
    main()
