"""What readers of the log fold: replies into a text and one final event, tokens into groups, requests and finals into what is overdue."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import Final, InferenceCompleted, InferenceFailed, InferenceRejected, Position, TokensGenerated
from streams.engine import GeneratedChunk
from streams.replies import ReplyReader
from streams.sweeping import Expected, Sweep
from streams.token_groups import TokenGroup

HERE = Position(topic="t", partition=0, offset=0)


def completed(request_id: str, text: str = "", epoch: int = 1) -> InferenceCompleted:
    """An answer."""
    return InferenceCompleted(
        request_id=request_id, tenant="acme", model="m", tier="deep-learning", reason="", text=text, finish_reason="stop", prompt_tokens=1,
        completion_tokens=1, requested_at=0, admitted_at=0, completed_at=0, epoch=epoch, source=HERE,
    )  # fmt: skip


def ends(request_id: str) -> list[Final]:
    """A final event of each kind."""
    facts = {"request_id": request_id, "tenant": "acme", "code": "c", "reason": "", "retryable": False, "remedy": "", "source": HERE}
    return [InferenceRejected(rejected_at=0, **facts), InferenceFailed(stage="s", failed_at=0, **facts), completed(request_id)]  # type: ignore[arg-type]


def tokens(pieces: list[str], begin: int, end: int, epoch: int = 1, request_id: str = "r") -> TokensGenerated:
    """Pieces of an answer as one group; token i is the number i."""
    text, ids = "".join(pieces[begin:end]), tuple(range(begin, end))
    return TokensGenerated(request_id=request_id, epoch=epoch, first_index=begin, token_ids=ids, text=text, generated_at=0)


@dataclass(frozen=True)
class Told:
    """An answer, and the records that tell it in the order in which they are read."""

    pieces: list[str]
    records: list[TokensGenerated | Final]


@st.composite
def told(draw: st.DrawFn, *, repeats: bool = True) -> Told:
    """Epochs that begin anew with the same tokens in other groups and end anywhere, interleaved, some records twice, some lost."""
    pieces = draw(st.lists(st.sampled_from(["", "a", "bc", " ", "é"]), min_size=1, max_size=8))
    streams: list[list[TokensGenerated | Final]] = []
    for epoch in range(1, draw(st.integers(1, 3)) + 1):
        borders = sorted(draw(st.sets(st.integers(1, len(pieces)), min_size=1)))
        streams.append([tokens(pieces, a, b, epoch) for a, b in pairwise([0, *borders])])
        if draw(st.booleans()):
            streams[-1].append(completed("r", "".join(pieces), epoch))
    records: list[TokensGenerated | Final] = []
    while any(streams):
        stream = draw(st.sampled_from([s for s in streams if s]))
        record = stream.pop(0)
        records += [record] * (draw(st.integers(0, 2)) if repeats else 1)
        if repeats and records and draw(st.booleans()):
            records.append(draw(st.sampled_from(records)))
    return Told(pieces, records)


@settings(deadline=None)
@given(told())
def test_what_is_shown_is_always_a_beginning_of_the_answer(story: Told) -> None:
    """However epochs mix, repeat and lose records: nothing is shown twice or out of order, nothing after the first final event."""
    reader, shown, finals = ReplyReader(), "", 0
    reply = reader.expect("r")
    for record in story.records:
        if isinstance(record, TokensGenerated):
            new = reader.tokens(record)
            assert not (new and finals), "tokens after the end"
            shown += new
        else:
            finals += reader.final(record)
        assert "".join(story.pieces).startswith(shown)
        assert reply.text == shown
        assert shown == "".join(story.pieces[: reply.next_index])
    first = next((r for r in story.records if not isinstance(r, TokensGenerated)), None)
    assert (reply.final, finals, reader.unanswered) == (first, int(first is not None), int(first is None))


@settings(deadline=None)
@given(told(repeats=False))
def test_an_epoch_that_is_read_alone_is_shown_whole(story: Told) -> None:
    """Without a move, the tokens are the answer."""
    reader = ReplyReader()
    alone = [r for r in story.records if isinstance(r, TokensGenerated) and r.epoch == 1]
    reader.expect("r")
    shown = "".join(reader.tokens(r) for r in alone)
    assert shown == "".join(story.pieces[: alone[-1].first_index + len(alone[-1].token_ids)])


def test_text_without_tokens_is_shown_once() -> None:
    """A last group may carry only text that was held back; the log may hold it twice."""
    reader = ReplyReader()
    reader.expect("r")
    held_back = TokensGenerated(request_id="r", epoch=1, first_index=1, token_ids=(), text="b", generated_at=0)
    assert [reader.tokens(r) for r in (tokens(["a"], 0, 1), held_back, held_back)] == ["a", "b", ""]


@pytest.mark.parametrize("first", ends("r"), ids=lambda e: type(e).__name__)
def test_the_first_final_event_is_the_truth(first: Final) -> None:
    """Of whatever kind; later ones of any kind are dropped."""
    reader = ReplyReader()
    reply = reader.expect("r")
    assert reader.final(first)
    assert not any(reader.final(later) for later in ends("r"))
    assert reply.final is first


def test_only_what_is_expected_is_followed() -> None:
    """Strangers leave no trace; the count of the unanswered follows every step, and expecting twice counts once."""
    reader = ReplyReader()
    for request_id in ("a", "b", "a", "c"):
        reader.expect(request_id)
    assert reader.unanswered == 3
    assert not reader.final(completed("stranger"))
    assert reader.tokens(tokens(["x"], 0, 1, request_id="stranger")) == ""
    assert reader.final(completed("a")) and reader.unanswered == 2
    for request_id in ("a", "b", "b", "stranger"):
        reader.forget(request_id)
    assert reader.unanswered == 1
    assert list(reader.replies) == ["c"]
    assert not reader.final(completed("b")), "forgotten"


CHUNKS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["", "a", "é"]), st.integers(0, 30)), min_size=1, max_size=12)


@settings(deadline=None)
@given(CHUNKS, st.integers(0, 50), st.lists(st.booleans(), min_size=12, max_size=12))
def test_groups_lose_and_reorder_nothing(steps: list[tuple[int, str, int]], window: int, flushes: list[bool]) -> None:
    """Beside a plain model: the first chunk goes out at once, the others within the window, and the last one takes everything along."""
    group, now, index, opened = TokenGroup.open("r", 2, window), 1000, 0, 1000
    held: list[GeneratedChunk] = []

    def expected() -> TokensGenerated | None:
        ids, text = tuple(i for c in held for i in c.token_ids), "".join(c.text for c in held)
        start = held[0].first_index if held else 0
        event = TokensGenerated(request_id="r", epoch=2, first_index=start, token_ids=ids, text=text, generated_at=now)
        held.clear()
        return event if ids or text else None

    for at, (count, text, pause) in enumerate(steps):
        now += pause
        assert group.wait_ms(now) == (max(0, opened + window - now) if held else None)
        if flushes[at]:
            assert group.flush(now) == expected()
        opened = opened if held else now
        last = at == len(steps) - 1
        held.append(GeneratedChunk(index, tuple(range(index, index + count)), text, 1, 1, "stop" if last else None))
        due = index == 0 or last or now - opened >= window
        assert group.add(held[-1], now) == (expected() if due else None)
        index += count
    assert group.wait_ms(now) is None
    assert group.flush(now) is None


def due(request_id: str, deadline_ms: int) -> Expected:
    """A request that was read."""
    return Expected(request_id, "acme", deadline_ms, HERE, HERE, 0)


@settings(deadline=None)
@given(st.permutations([(kind, r) for r in "abc" for kind in ("requested", "ended")]), st.sets(st.sampled_from("abc")))
def test_requests_and_finals_may_be_read_in_any_order(reads: list[tuple[str, str]], unanswered: set[str]) -> None:
    """Topics are read side by side: only what has no final event is overdue, each once, after deadline and grace."""
    sweep = Sweep(memory_ms=1000)
    for kind, request_id in reads:
        if kind == "requested":
            sweep.requested(due(request_id, ord(request_id)))
        elif request_id not in unanswered:
            sweep.ended(request_id, now_ms=0)
    swept = []
    for now in range(200):
        for expected in sweep.overdue(now, grace_ms=5):
            assert now == expected.deadline_ms + 5
            swept.append(expected.request_id)
        assert not sweep.overdue(now, grace_ms=5)
    assert swept == sorted(unanswered)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["requested", "ended"]), max_size=6))
def test_an_answered_request_is_never_overdue(reads: list[str]) -> None:
    """However often the log holds the request and its final event: producers send again, and finals repeat."""
    sweep = Sweep(memory_ms=1000)
    for kind in reads:
        if kind == "requested":
            sweep.requested(due("r", 10))
        else:
            sweep.ended("r", now_ms=0)
    assert bool(sweep.overdue(100, 0)) == ("requested" in reads and "ended" not in reads)


def test_a_request_is_swept_once() -> None:
    """And its final event, which is read back, is no more than a memory for a while."""
    sweep = Sweep(memory_ms=1000)
    sweep.requested(due("r", 10))
    assert sweep.overdue(9, 0) == []
    assert [e.request_id for e in sweep.overdue(10, 0)] == ["r"]
    sweep.ended("r", 11)
    assert sweep.overdue(10_000, 0) == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60))
def test_memory_is_bounded(pauses: list[int]) -> None:
    """Final events without a request are kept for memory_ms, and requests until their deadline, whatever became of them."""
    sweep, now = Sweep(memory_ms=100), 0
    heard: list[int] = []
    for number, pause in enumerate(pauses):
        now += pause
        heard.append(now)
        sweep.ended(f"stranger-{number}", now)
        sweep.requested(due(f"r-{number}", now + 100))
        sweep.ended(f"r-{number}", now)
        sweep.forget(now)
        sweep.overdue(now, 0)
        recent = sum(at + 100 >= now for at in heard)
        kept = [getattr(sweep, part.name) for part in fields(sweep)]
        assert sum(len(part) for part in kept if not isinstance(part, int)) <= 3 * recent
        assert not sweep.pending
