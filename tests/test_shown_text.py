"""Text that is safe to show: whole characters, and no beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.engines.shown_text import CharacterStream, ShownText, StopScanner


def decode(token_ids: Sequence[int]) -> str:
    """A byte-level tokenizer of one token per byte."""
    return bytes(token_ids).decode("utf-8", errors="replace")


def test_an_emoji_of_four_tokens_is_shown_when_it_is_whole() -> None:
    """Nothing is shown before the last of its four bytes."""
    stream = CharacterStream(decode)
    assert [stream.push(byte) for byte in "a😀b".encode()] == ["a", "", "", "", "😀", "b"]


@given(st.text())
def test_shown_pieces_make_the_whole_text(text: str) -> None:
    """No character is lost, doubled or replaced, whatever the text."""
    stream = CharacterStream(decode)
    assert "".join(stream.push(byte) for byte in text.encode()) + stream.flush() == text


@given(st.binary(max_size=12))
def test_garbage_is_shown_as_the_decoder_shows_it(garbage: bytes) -> None:
    """Bytes that never become characters end as replacement characters, as many as in one go."""
    stream = CharacterStream(decode)
    assert "".join(stream.push(byte) for byte in garbage) + stream.flush() == decode(garbage)


def test_garbage_is_not_held_back_for_ever() -> None:
    """A model that writes only broken bytes still shows something."""
    stream = CharacterStream(decode)
    assert any(stream.push(0xFF) for _ in range(20))


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "stopped"),
    [
        (["one ", "EN", "D two"], ["END"], ["one ", "", ""], True),
        (["one ", "EN", "CORES"], ["END"], ["one ", "", "ENCORES"], False),
        (["aaa", "aab"], ["aaab"], ["", "aa"], True),
        (["x\n", "\ny"], ["\n\n"], ["x", ""], True),
        (["say b before a"], ["a", "b"], ["s"], True),
        (["plain"], [""], ["plain"], False),
    ],
)
def test_stop_strings(pieces: list[str], stops: list[str], shown: list[str], stopped: bool) -> None:
    """A stop string over several pieces is found; its possible beginning is held back until it is certain."""
    scanner = StopScanner(stops)
    assert [scanner.push(piece) for piece in pieces] == shown
    assert scanner.stopped is stopped


@given(st.text(alphabet="ab"), st.text(alphabet="ab", min_size=1, max_size=4))
def test_stop_scanner_agrees_with_a_search(text: str, stop: str) -> None:
    """Letter by letter it shows what a search of the whole text would."""
    shown = ShownText(decode, [stop])
    out = ""
    for byte in text.encode():
        out += shown.push(byte)
        if shown.stopped:
            break
    else:
        out += shown.flush()
    assert out == text.partition(stop)[0]
    assert shown.stopped is (stop in text)
