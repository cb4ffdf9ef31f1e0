"""Text that is safe to show while tokens still come: whole characters, and nothing that may turn out to be a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what decoders write for bytes that are no (or not yet a) character
# A character has at most four bytes, and emoji joined by zero-width joiners are separate characters. More tokens than this
# without a whole character are not an incomplete one but garbage, which must not be held back for ever.
LONGEST_HOLD = 16


class CharacterStream:
    """Decodes token by token; gives out only whole characters.

    `decode` turns ids into text. Only a window of the last ids is decoded again at each step, so the cost does not grow with
    the answer; it begins one piece early, since decoders treat the first token of a text differently (a dropped space).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0
        self._read = 0

    def push(self, token_id: int) -> str:
        """Text that `token_id` completes; empty while a character is incomplete."""
        self._ids.append(token_id)
        text = self._decode(self._ids[self._window :])
        if text.endswith(REPLACEMENT) and len(self._ids) - self._read <= LONGEST_HOLD:
            return ""
        return self._advance(text)

    def flush(self) -> str:
        """What was held back, with replacement characters for bytes that never became a character."""
        return self._advance(self._decode(self._ids[self._window :])) if self._read < len(self._ids) else ""

    def _advance(self, text: str) -> str:
        known = self._decode(self._ids[self._window : self._read])
        self._window, self._read = self._read, len(self._ids)
        return text[len(known) :]


class StopScanner:
    """Finds stop strings in a stream of text, and holds back an end that could be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that may be shown now. After a stop string `stopped` is true, and the text ends before it."""
        pending = self._held + text
        found = [at for stop in self._stops if (at := pending.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return pending[: min(found)]
        keep = self._possible_beginning(pending)
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep]

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


class ShownText:
    """Characters and stop strings together: what the engine uses for one answer."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._characters = CharacterStream(decode)
        self._scanner = StopScanner(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: the answer ends."""
        return self._scanner.stopped

    def push(self, token_id: int) -> str:
        """Text that may be shown after one more token."""
        return self._scanner.push(self._characters.push(token_id))

    def flush(self) -> str:
        """The rest, at the end of an answer that no stop string ended."""
        rest = self._scanner.push(self._characters.flush())
        return rest if self.stopped else rest + self._scanner.flush()
