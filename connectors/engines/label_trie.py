"""Label-constrained decoding: which tokens may follow, so that an answer becomes one of the labels, word for word.

The labels' token sequences form a trie, and each step chooses among the present node's children alone (as in De Cao et al.,
"Autoregressive entity retrieval", ICLR 2021, for names of entities).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from streams.errors import PoisonError

_TRIES_KEPT = 16  # a service asks with few sets of labels; one of 150 labels takes about 3 ms to build


class BadLabels(PoisonError):
    """The labels can't be an answer of this model: give at least one, none empty, each made of text that its tokenizer can write."""

    def __init__(self, reason: str) -> None:
        super().__init__("bad_labels", reason, "give labels that are neither empty nor special tokens, without spaces at their ends")


class LabelTrie:
    """A trie over token ids. A node is the tuple of ids that leads to it; `ends` are the ids that may end a label, in order."""

    def __init__(self, labels: Sequence[Sequence[int]], end_ids: frozenset[int]) -> None:
        self._next: dict[tuple[int, ...], set[int]] = {}
        self._whole = {tuple(ids) for ids in labels}
        self._ends = sorted(end_ids)
        self.longest = max(map(len, self._whole)) + 1  # the end token included
        for ids in self._whole:
            for length in range(len(ids)):
                self._next.setdefault(ids[:length], set()).add(ids[length])

    def allowed(self, token_ids: Sequence[int]) -> list[int]:
        """Ids that may follow, ascending, so that equal logits are always decided the same way."""
        node = tuple(token_ids)
        following = sorted(self._next.get(node, ()))
        return sorted({*following, *self._ends}) if node in self._whole else following

    def complete(self, token_ids: Sequence[int]) -> bool:
        """Whether these ids are a label that no other label goes on from: no step is needed to end it."""
        node = tuple(token_ids)
        return node in self._whole and node not in self._next


class LabelTries:
    """The tries of one model's labels; the last ones are kept. For one thread at a time, or several that do not mind building twice."""

    def __init__(self, encode: Callable[[str], list[int]], decode: Callable[[Sequence[int]], str], end_ids: frozenset[int]) -> None:
        self._encode, self._decode, self._end_ids = encode, decode, end_ids
        self._kept: OrderedDict[tuple[str, ...], LabelTrie] = OrderedDict()

    def of(self, labels: tuple[str, ...]) -> LabelTrie:
        """The trie of these labels. Raises BadLabels where one of them would not come out of the model as it stands."""
        trie = self._kept.get(labels)
        if trie is None:
            trie = LabelTrie([self._ids(label) for label in labels], self._end_ids)
            self._kept[labels] = trie
            while len(self._kept) > _TRIES_KEPT:
                self._kept.popitem(last=False)
        return trie

    def _ids(self, label: str) -> list[int]:
        try:
            ids = self._encode(label)
        except (UnicodeError, TypeError) as error:
            raise BadLabels("a label is not valid Unicode") from error
        if not ids or self._decode(ids) != label or self._end_ids.intersection(ids):
            raise BadLabels(f"the label {label!r} is not what the model would write")
        return ids
