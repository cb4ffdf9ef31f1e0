"""Labelled question pairs to train on: the calibration parts alone, split by group, so that no question is on both sides."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    """`cached` was asked before, `query` is asked now; `same` says whether one answer serves both. `group` joins linked questions."""

    source: str
    cached: str
    query: str
    same: bool
    group: str


def read_pairs(data: Path, source: str, part: str) -> list[Pair]:
    """All pairs of DATA/pairs/SOURCE.PART.csv.gz, in the file's order."""
    with gzip.open(data / "pairs" / f"{source}.{part}.csv.gz", "rt", newline="") as lines:
        rows = csv.DictReader(lines)
        return [Pair(source, r["question_a"], r["question_b"], r["same"] == "1", r["group"]) for r in rows]


def fold_of(pair: Pair, folds: int) -> int:
    """Fold of a pair's group, the same in every run."""
    return int.from_bytes(hashlib.sha256(f"fold:{pair.group}".encode()).digest()[:4], "big") % folds


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    """Every text once, in order of appearance."""
    return list(dict.fromkeys(text for pair in pairs for text in (pair.cached, pair.query)))
