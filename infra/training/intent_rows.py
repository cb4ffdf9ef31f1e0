"""The rows that an intent classifier is trained on, and which of them are held out to choose by."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

OUT_OF_SCOPE = "out_of_scope"  # the word for it, to clients and to language models alike
_IN_THE_DATA = "oos"


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts with their classes, as indices of `names`, whose last is out of scope where `outside` is one of them and not -1.

    `held` marks the rows in scope that are held out to choose by.
    """

    texts: tuple[str, ...]
    classes: NDArray[np.int64]
    names: tuple[str, ...]
    outside: int
    held: NDArray[np.bool_]


def read(path: Path, names: tuple[str, ...] = ()) -> Rows:
    """Rows of a data file with the columns text and intent, where `oos` is out of scope, and perhaps source. `names`: those of a
    classifier that is to be measured; empty for the file's own.

    Held out are the published validation rows, which proved harder than random ones (DESIGN.md, decision 33).
    Where no validation rows are marked, each fourth row is held out.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        found = list(csv.DictReader(lines))
    outside = any(row["intent"] == _IN_THE_DATA for row in found)
    names = names or (*sorted({row["intent"] for row in found} - {_IN_THE_DATA}), *([OUT_OF_SCOPE] if outside else []))
    index = {name: number for number, name in enumerate(names)}
    classes = np.array([index[OUT_OF_SCOPE if row["intent"] == _IN_THE_DATA else row["intent"]] for row in found], dtype=np.int64)
    held = np.array([row["source"] == "val" for row in found], dtype=np.bool_)
    if not held.any():
        held = np.arange(len(found)) % 4 == 0
    return Rows(tuple(row["text"] for row in found), classes, names, index.get(OUT_OF_SCOPE, -1), held)
