"""Whether two questions ask the same: a cross-encoder and a small classifier in ONNX, behind the port `PairVerifier`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from connectors.onnx.embedder import open_tokenizer, padded
from connectors.onnx.session import Precision, by_length, open_session, read_facts
from streams.semantic.likeness import features
from streams.semantic.texts import QuestionPair
from streams.semantic.wording import same_wording

_READING = "1"  # of features and wording; raise it when their code says something else of a pair, since scores differ then
SAME_WORDING = 0.9999
"""Probability of two texts that are typed otherwise at most. What it is worth is learnt with the prior, as of any other."""


class OnnxVerifier:
    """Reads a folder that `models pull` made: float.onnx, int8.onnx, stack.onnx, tokenizer.json, verifier.json.

    The network's logit and the features of the words go through the classifier of stack.onnx, whose probabilities were calibrated.
    """

    def __init__(self, folder: Path, precision: Precision = "int8", threads: int = 1, device: str = "cpu") -> None:
        """Takes about 0.3 s. Raises `BrokenModel`."""
        made_of = read_facts(folder / "verifier.json")["made_of"]
        digest = hashlib.sha256("".join([_READING, *(made_of[name] for name in sorted(made_of))]).encode()).hexdigest()
        self.version = f"{folder.name}@{digest[:12]}/{precision}"
        self._encoder = CrossEncoder(folder, precision, threads, device)
        self._stack = open_session(folder / "stack.onnx", 1, "cpu")

    def probabilities(self, pairs: Sequence[QuestionPair]) -> np.ndarray:
        """(n,) float32 in [0, 1]. A pair longer than the network's tokens is cut at the longer text's end."""
        found = np.full(len(pairs), SAME_WORDING, np.float32)
        asked = [row for row, pair in enumerate(pairs) if not same_wording(pair.known, pair.asked)]
        if asked:
            rows = stack_inputs([pairs[row] for row in asked], self._encoder)
            found[asked] = self._stack.run(None, {"features": rows})[1][:, 1]
        return found


class CrossEncoder:
    """The network alone: logits that two texts ask the same."""

    def __init__(self, folder: Path, precision: Precision, threads: int, device: str) -> None:
        """Raises `BrokenModel`."""
        self._tokenizer = open_tokenizer(folder / "tokenizer.json", int(read_facts(folder / "verifier.json")["max_tokens"]))
        self._session = open_session(folder / f"{precision}.onnx", threads, device)

    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) float32, in the order of `pairs`."""
        out = np.empty(len(pairs), np.float32)
        encoded = self._tokenizer.encode_batch(list(pairs))
        for rows in by_length([len(e.ids) for e in encoded]):
            ids, mask, segments = padded([encoded[row] for row in rows])
            fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
            out[rows] = self._session.run(None, fed)[0]
        return out

    def inputs(self, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token ids, attention mask and segment ids, each (n, longest) int64."""
        return padded(self._tokenizer.encode_batch(list(pairs)))

    def rarity(self, word: str) -> float:
        """From the word's place in the vocabulary, which is ordered by frequency: 0 for the first of them, 1 for what is not in it."""
        place = self._tokenizer.token_to_id(word)
        if place is None:
            return 1.0
        return math.log(max(place, 1000) / 1000) / math.log(30.522)  # words begin at 1,000 of 30,522


def stack_inputs(pairs: Sequence[QuestionPair], encoder: CrossEncoder) -> np.ndarray:
    """What the classifier of stack.onnx reads: (n, 1 + features) float32, the network's logit first."""
    logits = encoder.logits([(pair.known, pair.asked) for pair in pairs])
    words = np.array([features(pair, encoder.rarity) for pair in pairs], np.float32)
    return np.column_stack([logits, words]).astype(np.float32)
