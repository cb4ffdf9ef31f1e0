"""Generates a little before the first request comes: loads kernels and pages, and gives the first measurement of the rates."""

from __future__ import annotations

import time

from transformers.cache_utils import DynamicCache

from connectors.engines.causal_lm import CausalLm
from connectors.engines.kv_batch import KvBatch
from connectors.engines.rates import Rates

PROMPT_TOKENS = 64
STEPS = 4


def warm_up(lm: CausalLm, rates: Rates) -> None:
    """Run a prompt and a few tokens twice; the second time is measured, since the first reads the weights from disk."""
    for _ in range(2):
        cache, batch = DynamicCache(), KvBatch()
        began = time.perf_counter()
        token = int(lm.prefill([0] * PROMPT_TOKENS, cache).argmax())
        prefilled = time.perf_counter()
        batch.join(cache, PROMPT_TOKENS)
        for _ in range(STEPS):
            token = int(lm.step([token], batch).argmax())
        rates.start_over(PROMPT_TOKENS, prefilled - began, (time.perf_counter() - prefilled) / STEPS)
