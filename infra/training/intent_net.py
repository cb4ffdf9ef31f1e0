"""The network of the intent classifier: a sentence's embedding beside a learned sum of its n-grams, and one hidden layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train. Chosen on held-out folds of CLINC150's calibration part; see the card of `infra/shipped/intents`."""

    buckets: int = 1 << 14
    width: int = 64
    hidden: int = 512
    drop: float = 0.4
    gram_drop: float = 0.3  # n-grams left out at random, or it would trust single words too much
    smoothing: float = 0.1
    epochs: int = 10
    batch: int = 256
    rate: float = 3e-3
    decay: float = 1e-2
    outside_weight: float = 3.0  # of rows out of scope, which are few
    members: int = 2  # networks of other seeds, whose probabilities are averaged
    seed: int = 1


GRAM_SCALE = 8.0  # brings the sum of n-grams to the size of the scaled vector's numbers


class IntentNet(nn.Module):
    """Logits (texts, classes) of vectors (texts, dimensions) and n-grams (texts, most), where `buckets` stands for none."""

    def __init__(self, recipe: Recipe, dimensions: int, classes: int) -> None:
        super().__init__()
        self.buckets = recipe.buckets
        self.grams = nn.Embedding(recipe.buckets + 1, recipe.width, padding_idx=recipe.buckets)
        nn.init.normal_(self.grams.weight, 0, 0.02)
        self.grams.weight.data[recipe.buckets] = 0
        self.before = nn.Dropout(recipe.drop / 2)
        self.hidden = nn.Linear(dimensions + recipe.width, recipe.hidden)
        self.between = nn.Dropout(recipe.drop)
        self.out = nn.Linear(recipe.hidden, classes)

    def forward(self, vectors: torch.Tensor, grams: torch.Tensor) -> torch.Tensor:
        """See the class."""
        count = (grams < self.buckets).sum(1, keepdim=True).clamp(min=1)
        summed = nn.functional.embedding_bag(grams, self.grams.weight, mode="sum", padding_idx=self.buckets)
        both = torch.cat([vectors * vectors.shape[1] ** 0.5, summed * GRAM_SCALE / count.sqrt()], dim=1)
        logits: torch.Tensor = self.out(self.between(nn.functional.gelu(self.hidden(self.before(both)))))
        return logits


def fit(vectors: Floats, grams: Ints, classes: Ints, recipe: Recipe, weights: Floats) -> IntentNet:
    """Train one network on all rows, with `weights` (classes) on their losses; the same recipe and thread count give the same."""
    torch.manual_seed(recipe.seed)
    order = np.random.default_rng(recipe.seed)
    net = IntentNet(recipe, vectors.shape[1], len(weights)).train()
    x, g, y = torch.from_numpy(vectors), torch.from_numpy(grams), torch.from_numpy(classes)
    weight = torch.from_numpy(weights)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=recipe.decay, fused=True)
    most = (g < recipe.buckets).sum(1).clamp(min=1)  # a batch is as wide as its longest text, not as the longest of all
    per_epoch = max(1, len(y) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=recipe.epochs * per_epoch, pct_start=0.1)
    for _ in range(recipe.epochs):
        shuffled = torch.from_numpy(order.permutation(len(y)))
        for step in range(per_epoch):
            rows = shuffled[step * recipe.batch : (step + 1) * recipe.batch]
            some = g[rows][:, : int(most[rows].max())]
            left = torch.where(torch.rand(some.shape) < recipe.gram_drop, recipe.buckets, some)
            loss = nn.functional.cross_entropy(net(x[rows], left), y[rows], weight, label_smoothing=recipe.smoothing)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            optimiser.step()
            schedule.step()
    return net.eval()


def probabilities(nets: list[IntentNet], vectors: Floats, grams: Ints) -> NDArray[np.float64]:
    """Mean over the networks (texts, classes)."""
    with torch.inference_mode():
        each = [net(torch.from_numpy(vectors), torch.from_numpy(grams)).double().softmax(1) for net in nets]
    mean: NDArray[np.float64] = torch.stack(each).mean(0).numpy()
    return mean
