"""Trains the pair encoder's low-rank deltas on a CPU, in minutes: batches of like length, one pass of linear decay."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from infra import pair_encoder
from infra.training.pairs import Pair

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. A step costs about 0.7 s of one core at 32 pairs, so 1,000 steps are 12 minutes of it."""

    epochs: float = 3.0
    batch: int = 32
    rate: float = 1e-3
    warm_up: float = 0.06  # share of the steps
    smoothing: float = 0.03  # labels are noisy: nobody is surer than 1 - this/2
    longest: int = 96  # tokens of a pair; longer ones are cut
    seed: int = 7


def encode(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], longest: int) -> list[tuple[list[int], list[int]]]:
    """Token ids and segment ids of each pair."""
    tokenizer.enable_truncation(longest)
    tokenizer.no_padding()
    return [(e.ids, e.type_ids) for e in tokenizer.encode_batch(list(pairs))]


def padded(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, attention_mask, token_type_ids, each (rows, longest row)."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    out = np.zeros((3, *shape), np.int64)
    for row, (ids, types) in enumerate(rows):
        out[0, row, : len(ids)], out[1, row, : len(ids)], out[2, row, : len(ids)] = ids, 1, types
    tensors = torch.from_numpy(out)
    return tensors[0], tensors[1], tensors[2]


def batches(lengths: Sequence[int], size: int, source: random.Random) -> Iterator[list[int]]:
    """Indices of one epoch: shuffled, sorted by length inside runs of 32 batches, the batches shuffled again."""
    order = list(range(len(lengths)))
    source.shuffle(order)
    cut = []
    for start in range(0, len(order), size * 32):
        run = sorted(order[start : start + size * 32], key=lengths.__getitem__)
        cut += [run[i : i + size] for i in range(0, len(run), size)]
    source.shuffle(cut)
    yield from cut


def train(folder: Path, pairs: Sequence[Pair], recipe: Recipe, report: Report) -> pair_encoder.PairEncoder:
    """Train on `pairs` from the pulled model in `folder`. Deterministic for one version of torch and one number of threads."""
    torch.manual_seed(recipe.seed)
    source = random.Random(recipe.seed)  # noqa: S311  # an order of batches, no secret
    network = pair_encoder.new(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    orders = [[(p.cached, p.query) for p in pairs], [(p.query, p.cached) for p in pairs]]
    both = [encode(tokenizer, order, recipe.longest) for order in orders]
    lengths = [len(ids) for ids, _ in both[0]]
    steps = int(recipe.epochs * (len(pairs) + recipe.batch - 1) // recipe.batch)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0.01)
    loss_of = nn.BCEWithLogitsLoss()
    network.train()
    done, running = 0, 0.0
    while done < steps:
        for chosen in batches(lengths, recipe.batch, source):
            if done >= steps:
                break
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * min((done + 1) / (recipe.warm_up * steps), 1 - done / steps)
            inputs = padded([both[source.random() < 0.5][i] for i in chosen])  # either order: sameness has none
            wanted = torch.tensor([float(pairs[i].same) for i in chosen]) * (1 - recipe.smoothing) + recipe.smoothing / 2
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(*inputs)
            loss = loss_of(logits.float(), wanted)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            done += 1
            running = 0.98 * running + 0.02 * loss.item()
            if done % 50 == 0:
                report(f"step {done}/{steps}, loss {running / (1 - 0.98**done):.3f}")
    return network.eval()
