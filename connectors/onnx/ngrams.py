"""Hashed n-grams: what a text is made of, as rows of a table. Training and serving both count with this file.

Words, pairs of words and pieces of 3 and 4 letters, hashed as in Weinberger et al., "Feature hashing for large scale multitask
learning" (ICML 2009). They hold what an embedding smooths away, such as the one word that tells two intents apart.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MOST = 256  # n-grams of one text; a question of 15 words has about 120, and a long letter's beginning has to do
_WORDS = re.compile(r"[\w']+")


def hashed(text: str, buckets: int) -> list[int]:
    """Buckets of the text's n-grams, ascending, each once."""
    words = _WORDS.findall(text[: 8 * MOST].lower())
    grams = {f"w{word}" for word in words} | {f"b{a} {b}" for a, b in pairwise(words)}
    joined = f"_{'_'.join(words)}_"
    grams |= {f"c{joined[at : at + size]}" for size in (3, 4) for at in range(len(joined) - size + 1)}
    return sorted({zlib.crc32(gram.encode("utf-8", "replace")) % buckets for gram in grams})[:MOST]


def rows(texts: Sequence[str], buckets: int) -> NDArray[np.int64]:
    """Buckets of each text (texts, most of them in one), filled up with `buckets`, which stands for none."""
    found = [hashed(text, buckets) for text in texts]
    filled = np.full((len(texts), max(1, *map(len, found)) if found else 1), buckets, dtype=np.int64)
    for row, grams in enumerate(found):
        filled[row, : len(grams)] = grams
    return filled
