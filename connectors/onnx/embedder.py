"""Vectors of texts: a sentence transformer in ONNX with its tokenizer, behind the port `Embedder`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from connectors.onnx.session import BrokenModel, Precision, by_length, open_session, read_facts


class OnnxEmbedder:
    """Reads a folder that `models pull` made: float.onnx, int8.onnx, tokenizer.json, embedding.json. Its name is the model's.

    The version holds the digest of the weights that were converted, not of the ONNX file, so that machines agree on it.
    """

    def __init__(self, folder: Path, precision: Precision = "int8", threads: int = 1, device: str = "cpu") -> None:
        """Takes about 0.3 s. Raises `BrokenModel`."""
        facts = read_facts(folder / "embedding.json")
        self.version = f"{folder.name}@{facts['weights_sha256'][:12]}/{precision}"
        self.dimensions = int(facts["dimensions"])
        self._tokenizer = open_tokenizer(folder / "tokenizer.json", int(facts["max_tokens"]))
        self._session = open_session(folder / f"{precision}.onnx", threads, device)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dimensions) float32 of length 1. A text longer than the model's 256 tokens counts with its beginning only."""
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        encoded = self._tokenizer.encode_batch(list(texts))
        for rows in by_length([len(e.ids) for e in encoded]):
            ids, mask, _ = padded([encoded[row] for row in rows])
            vectors[rows] = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return vectors


def open_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer without padding of its own, cutting at `max_tokens`. Raises `BrokenModel`."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise BrokenModel(path, str(error)) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def padded(encoded: Sequence[Encoding]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, attention mask and segment ids, each (n, longest) int64."""
    shape = (len(encoded), max(len(e.ids) for e in encoded))
    ids, mask, segments = (np.zeros(shape, np.int64) for _ in range(3))
    for row, one in enumerate(encoded):
        ids[row, : len(one.ids)] = one.ids
        mask[row, : len(one.ids)] = 1
        segments[row, : len(one.ids)] = one.type_ids
    return ids, mask, segments
