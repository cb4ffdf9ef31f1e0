"""Makes what ships of the verifier: `python -m infra.training.verifier`, from the calibration parts of the question pairs alone.

1. The network's low-rank deltas are trained on the groups of folds 3-9 (qqp) and 5-9 (medical_mqp).
2. The classifier over its logit and the words' features is trained on the other groups, which the network has not seen, and its
   probabilities there come from cross-validation by group.
3. On those, the decision rule's prior is learnt, and the margin that keeps an error bound with a bound's confidence.

Only candidates count: pairs whose cosine a look-up would return. `--keep-deltas` begins at 2 with the deltas that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from connectors.onnx.embedder import OnnxEmbedder
from connectors.onnx.verifier import SAME_WORDING, CrossEncoder, stack_inputs
from infra import models, models_convert_verifier, pair_encoder
from infra.settings import Settings
from infra.training import cross_encoder, operating, stack
from infra.training.pair_vectors import similarities
from infra.training.pairs import Pair, fold_of, read_pairs
from streams.semantic.gates import gate
from streams.semantic.texts import QuestionPair
from streams.semantic.wording import same_wording

SHIPPED = models_convert_verifier.SHIPPED
_FOLDS = 10
_UNSEEN = {"qqp": 3, "medical_mqp": 5}
"""Folds below are kept from the network. Of the small set more, since a threshold has to be proven on it."""
FLOOR = 0.75
"""Cosine of a candidate. Below it few pairs ask the same, and a network that needn't learn them learns the others better."""
_SEEN_FLOOR = {"qqp": FLOOR, "medical_mqp": 0.6}  # the small set's few pairs are all worth seeing


def main() -> None:
    """Train what is asked for, and write it."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--keep-deltas", action="store_true", help="train the classifier and the prior only")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    settings = Settings()
    torch.set_num_threads(chosen.threads)
    SHIPPED.mkdir(parents=True, exist_ok=True)
    pairs = [pair for name in _UNSEEN for pair in read_pairs(settings.data, name, "calibration")]
    embedder = OnnxEmbedder(models.pull(settings, settings.embedder, print))
    cosines = similarities(embedder, pairs, Path(".headrace-bench"))
    recipe = cross_encoder.Recipe()
    (SHIPPED / "verifier.json").write_text(json.dumps({"max_tokens": recipe.longest, "floor": FLOOR}, indent=1) + "\n")
    with models.unpacked(settings, settings.embedder, print) as source:
        if not chosen.keep_deltas:
            seen = [p for p, c in zip(pairs, cosines, strict=True) if not _unseen(p) and c >= _SEEN_FLOOR[p.source]]
            pair_encoder.save_deltas(cross_encoder.train(source, seen, recipe, print), SHIPPED / "deltas.safetensors")
        candidates = [(p, float(c)) for p, c in zip(pairs, cosines, strict=True) if c >= FLOOR]
        write_stack(source, [(p, c) for p, c in candidates if _unseen(p)], [p for p, _ in candidates if same_wording(p.cached, p.query)])


def write_stack(source: Path, held: Sequence[tuple[Pair, float]], typed: Sequence[Pair]) -> None:
    """Train and write stack.onnx and decision.json, from held-out pairs with their cosines.

    `typed`: all pairs of one wording. No model judges those, so that whichever fold they are of, they tell what their certainty is worth.
    """
    same = np.array([pair.same for pair, _ in held])
    folds = np.array([fold_of(pair, 1000) // 200 for pair, _ in held])  # five, independent of those above: 1000 is cut otherwise
    sources = np.array([pair.source for pair, _ in held])
    with tempfile.TemporaryDirectory() as work:
        models_convert_verifier.encoder_only(source, Path(work), SHIPPED)
        encoder = CrossEncoder(Path(work), "int8", 1, "cpu")
        rows = stack_inputs([QuestionPair(known=p.cached, asked=p.query, similarity=c) for p, c in held], encoder)
    np.savez(Path(".headrace-bench") / "stack_rows.npz", rows=rows, same=same, folds=folds, sources=sources)
    stack.train(rows, same, SHIPPED / "stack.onnx")
    unseen = stack.cross_validated(rows, same, folds)
    judged = [n for n, (p, _) in enumerate(held) if not same_wording(p.cached, p.query) and not gate(p.query, p.cached)]
    certain = [p for p in typed if not gate(p.query, p.cached)]
    probabilities = np.concatenate([unseen[judged], np.full(len(certain), SAME_WORDING)])
    right = np.concatenate([same[judged], np.array([p.same for p in certain], bool)])
    facts: dict[str, Any] = operating.learn(probabilities, right, np.concatenate([sources[judged], [p.source for p in certain]]))
    (SHIPPED / "decision.json").write_text(json.dumps(facts, separators=(",", ":")) + "\n")
    for line in operating.told(facts):
        sys.stdout.write(line + "\n")


def _unseen(pair: Pair) -> bool:
    return fold_of(pair, _FOLDS) < _UNSEEN[pair.source]


if __name__ == "__main__":
    main()
