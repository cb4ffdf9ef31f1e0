"""How fast an engine is, as moving averages that the balancer's prediction of waiting times is made from."""

from __future__ import annotations

# Weight of the newest measurement: about the last ten count, so that a change of load shows within seconds.
NEWEST = 0.1
# Until answers were measured, an answer is taken to be this long. The balancer only needs the order of magnitude.
ASSUMED_ANSWER_TOKENS = 64


class Rates:
    """Moving averages. Written by the decode thread, read by any: each is one float, and reading it needs no lock."""

    def __init__(self) -> None:
        self._prefill_tokens = 0.0
        self._prefill_s = 0.0
        self.prefill_tokens_per_s = 0.0
        self.service_s = 0.0

    def prefilled(self, tokens: int, seconds: float) -> None:
        """A part of a prompt was computed. The rate is tokens over seconds of averages, so that short prompts don't distort it."""
        self._prefill_tokens += NEWEST * (tokens - self._prefill_tokens)
        self._prefill_s += NEWEST * (seconds - self._prefill_s)
        self.prefill_tokens_per_s = self._prefill_tokens / max(self._prefill_s, 1e-9)

    def served(self, seconds: float) -> None:
        """An answer was completed, `seconds` after its prefill began."""
        self.service_s = seconds if self.service_s == 0.0 else self.service_s + NEWEST * (seconds - self.service_s)

    def start_over(self, prefill_tokens: int, prefill_s: float, token_s: float) -> None:
        """Begin with what the warm-up measured."""
        self._prefill_tokens, self._prefill_s = float(prefill_tokens), prefill_s
        self.prefill_tokens_per_s = prefill_tokens / max(prefill_s, 1e-9)
        self.service_s = ASSUMED_ANSWER_TOKENS * token_s
