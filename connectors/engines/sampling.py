"""The counter-based sampler: token i of a request depends on (seed, i) and the logits alone, whoever draws it."""

from __future__ import annotations

import hashlib
import struct

import torch


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) for token `index` of a request with `seed`, the same on every machine.

    A counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with blake2b as its
    bijection: no state to carry over when another worker continues.
    """
    digest = hashlib.blake2b(struct.pack("<qq", _as_int64(seed), index), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


def only(logits: torch.Tensor, allowed: list[int]) -> torch.Tensor:
    """`logits` (one row, vocabulary) with everything but the `allowed` ids made impossible."""
    kept = torch.tensor(allowed, device=logits.device)
    return torch.full_like(logits, -torch.inf).index_copy_(0, kept, logits[kept])


def draw(logits: torch.Tensor, temperature: float, top_p: float, number: float) -> int:
    """Token id for `logits` (one row, vocabulary) and a uniform `number` in [0, 1).

    `temperature` > 0. The nucleus is the smallest set of most likely tokens that holds `top_p` of the mass (Holtzman et al., 2020).
    The distribution is inverted in the order of token ids and in float64: sorted by probability, two nearly equal tokens could
    change places with the last bits of the logits, which depend on the other rows of the batch.
    """
    odds = torch.softmax(logits.detach().to("cpu", torch.float64) / temperature, dim=-1)
    if top_p < 1.0:
        odds = _nucleus(odds, top_p)
    mass = odds.cumsum(dim=-1)
    found = int(torch.searchsorted(mass, number * float(mass[-1]), right=True))
    return min(found, int(odds.nonzero()[-1]))  # rounding may carry the product to the very end, where no mass is


def _nucleus(odds: torch.Tensor, top_p: float) -> torch.Tensor:
    ranked, order = odds.sort(descending=True, stable=True)
    kept = ranked.cumsum(dim=-1) - ranked < top_p  # the mass before a token decides, so the first one always stays
    return torch.zeros_like(odds).scatter(0, order[kept], ranked[kept])


def _as_int64(seed: int) -> int:
    """Any Python integer as a signed 64-bit one."""
    return (seed + 2**63) % 2**64 - 2**63
