"""The torch side of the verifier: MiniLM reading two texts at once, changed by low-rank deltas that are small enough to ship.

The deltas (LoRA, arXiv 2106.09685) lie on every linear layer; biases, normalisations and the segment embedding are trained whole.
Training and export both build the network here; serving runs the exported ONNX file and needs no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

RANK = 16
_HIDDEN = 384  # MiniLM-L6's
_WHOLE = ("embeddings.token_type", "embeddings.LayerNorm")  # small, and what tells one text from the other


class LowRankLinear(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices: y = Wx + b + BAx."""

    def __init__(self, base: nn.Linear, rank: int = RANK) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))  # zero, so that training begins at the pulled weights

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        return cast(Tensor, self.base(x)) + (x @ self.down.T) @ self.up.T

    def merged(self) -> nn.Linear:
        """The same map as one plain layer."""
        self.base.weight.data += self.up.data @ self.down.data
        return self.base


class PairEncoder(nn.Module):
    """Logit that two texts ask the same thing, from their common encoding `[CLS] a [SEP] b [SEP]`.

    The head sees the first token, and the difference and product of both texts' mean states.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(3 * _HIDDEN, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Three (pairs, tokens) int64 to (pairs,) float32 logits."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state.float()
        second = (attention_mask * token_type_ids).unsqueeze(-1).to(states.dtype)
        first = (attention_mask * (1 - token_type_ids)).unsqueeze(-1).to(states.dtype)
        a = (states * first).sum(1) / first.sum(1)
        b = (states * second).sum(1) / second.sum(1)
        logits: Tensor = self.head(torch.cat([states[:, 0], (a - b).abs(), a * b], dim=1)).squeeze(1)
        return logits


def new(folder: Path) -> PairEncoder:
    """A network to train, from the pulled model's folder (config.json, model.safetensors)."""
    from transformers import BertConfig, BertModel  # noqa: PLC0415  # 5 s: only a command that needs it waits

    config = BertConfig(**dict(BertConfig.from_json_file(folder / "config.json").to_dict()), attn_implementation="eager")
    encoder: Any = BertModel(config, add_pooling_layer=False)
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if not name.startswith("pooler.")}
    weights.pop("embeddings.position_ids", None)
    encoder.load_state_dict(weights)
    network = PairEncoder(encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad = (name.startswith("encoder.") and parameter.dim() == 1) or name.startswith(_WHOLE)
    for module in list(encoder.encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, LowRankLinear(child))
    return network


def save_deltas(network: PairEncoder, path: Path) -> None:
    """Write what was trained, in half precision: about 1.6 MB at rank 16."""
    trained = {name: p.detach().half().contiguous() for name, p in network.named_parameters() if p.requires_grad}
    save_file(trained, path)
    path.chmod(0o644)


def load_deltas(network: PairEncoder, path: Path) -> None:
    """Put trained values over the pulled ones. Raises KeyError where the file is of another network."""
    state = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in load_file(path).items():
            state[name].copy_(value.float())


def merge(network: PairEncoder) -> PairEncoder:
    """The same function with plain layers, in place; for export."""
    for module in list(network.encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LowRankLinear):
                setattr(module, name, child.merged())
    return network.eval()
