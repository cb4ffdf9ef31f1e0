"""The keys and values of a running batch: rows join and leave between steps, and each row ends in the same column.

Rows are padded on the left, so that one step writes one column for all of them:

    row 0   . . . a b c d e |       `.` padding, masked out
    row 1   . . . . . f g h |       `|` the column that the next step writes
    row 2   p q r s t u v w |
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

# Columns allocated ahead. The whole cache is copied once in so many steps instead of at each; more would only cost memory.
SPARE_COLUMNS = 128


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types that mypy can follow
    """One layer's keys and values, shape (rows, heads, columns, size), with spare columns at the end to write into."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.used = used
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns; return all that are in use, as attention wants them."""
        end = self.used + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self.keys, self.values = _widened(self.keys, self.used), _widened(self.values, self.used)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Columns in use; transformers asks for it by this name."""
        return self.used


class KvBatch:
    """Keys and values of all rows, and how many tokens each row has.

    `join` and `keep` build everything anew before they put it in place: when memory runs out, the batch is as it was.
    """

    def __init__(self) -> None:
        self._layers: list[RoomyLayer] = []
        self.lengths: list[int] = []

    @property
    def columns(self) -> int:
        """Columns in use: the length of the longest row."""
        return max(self.lengths, default=0)

    def join(self, prefilled: DynamicCache, length: int) -> None:
        """Add a row with the keys and values of a prompt of `length` tokens that was prefilled alone."""
        columns = max(self.columns, length)
        old: list[RoomyLayer | None] = list(self._layers) if self._layers else [None] * len(prefilled.layers)
        self._layers = [_joined(before, new, columns) for before, new in zip(old, prefilled.layers, strict=True)]
        self.lengths.append(length)

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but `rows`, and the padding that the remaining ones have in common."""
        lengths = [self.lengths[row] for row in rows]
        if not rows:
            self.clear()
        elif len(rows) < len(self.lengths):
            self._layers = [_kept(layer, rows, max(lengths)) for layer in self._layers]
            self.lengths = lengths

    def clear(self) -> None:
        """Forget everything, as after a failed step, whose columns are half written."""
        self._layers, self.lengths = [], []

    def inputs(self, token_ids: list[int], device: str) -> dict[str, Any]:
        """Arguments of the model's forward call for one step; `token_ids` are each row's last token. Call `stepped` after it.

        The mask is left out where no row has padding: attention is faster without it.
        """
        ends = torch.tensor(self.lengths, device=device)
        columns = torch.arange(self.columns + 1, device=device)
        mask = None if min(self.lengths) == self.columns else columns[None, :] >= (self.columns - ends)[:, None]
        return {
            "input_ids": torch.tensor(token_ids, device=device)[:, None],
            "position_ids": ends[:, None],
            "attention_mask": mask,
            "past_key_values": Cache(layers=self._layers),
        }

    def stepped(self) -> None:
        """Every row has one token more."""
        self.lengths = [length + 1 for length in self.lengths]


def _joined(before: RoomyLayer | None, new: Any, columns: int) -> RoomyLayer:
    tensors = []
    for name in ("keys", "values"):
        row: torch.Tensor = getattr(new, name)
        old: torch.Tensor = row[:0] if before is None else getattr(before, name)[:, :, : before.used]
        both = row.new_zeros((old.shape[0] + 1, row.shape[1], columns + SPARE_COLUMNS, row.shape[3]))
        both[:-1, :, columns - old.shape[2] : columns] = old
        both[-1:, :, columns - row.shape[2] : columns] = row
        tensors.append(both)
    return RoomyLayer(tensors[0], tensors[1], columns)


def _kept(layer: RoomyLayer, rows: list[int], columns: int) -> RoomyLayer:
    used = slice(layer.used - columns, layer.used)
    keys, values = (_widened(tensor[rows][:, :, used], columns) for tensor in (layer.keys, layer.values))
    return RoomyLayer(keys, values, columns)


def _widened(tensor: torch.Tensor, used: int) -> torch.Tensor:
    """A copy of the used columns with spare ones after them. Zeros, since masked-out garbage could be NaN, and 0 x NaN is NaN."""
    rows, heads, _, size = tensor.shape
    wide = tensor.new_zeros((rows, heads, used + SPARE_COLUMNS, size))
    wide[:, :, :used] = tensor[:, :, :used]
    return wide
