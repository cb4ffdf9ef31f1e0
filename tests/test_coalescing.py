"""Identical requests in flight: one is computed, the others share its answer, and whoever cannot is tried on its own."""

from __future__ import annotations

from msgspec.structs import replace

from schemas.events import DeepLearningRequested, GenerationFinished, Position, RequestDispatched, SemanticCheck
from streams.coalescing import FRESH_MS, KEYED_KEPT_MS, shared_end, shared_final
from streams.dispatch_state import DispatchState, evolve
from streams.dispatching import decide
from tests.test_dispatching import START, asked, finished, fresh, report


def placed(state: DispatchState, at: int = START) -> list[str]:
    """Requests that are placed now."""
    return [e.request_id for e in decide(state, at) if isinstance(e, RequestDispatched)]


def ends(state: DispatchState, at: int = START) -> dict[str, tuple[str, str]]:
    """What the dispatcher ends by itself now: outcome and text."""
    return {e.request_id: (e.outcome, e.text) for e in decide(state, at) if isinstance(e, GenerationFinished)}


def test_one_is_computed_and_all_get_its_answer() -> None:
    """Followers are not placed; when their leader completes they share its text, and end on the log by their own ids."""
    first = asked("a", entry="e")
    state = fresh(first, *(asked(r, entry="e") for r in "bcd"), report(slots=9))
    assert placed(state) == ["a"]
    evolve(state, finished("a", 1, of=first), START)
    assert ends(state) == dict.fromkeys("bcd", ("completed", "a/1"))
    assert not state.held and not state.groups.leaders and not state.groups.tokens and not state.groups.followers


def test_only_what_is_identical_and_may_be_shared_follows() -> None:
    """Another entry, no entry, the same key with another body, and checks of served answers are computed on their own."""
    check = SemanticCheck(entry_id="e", similarity=1, score=1, served=True, known_text="", request_id="x")
    other_body = asked("f", key="k")
    assert other_body.idempotency is not None
    apart = [
        asked("a", entry="e"), asked("b", entry="e2"), asked("c"), asked("d"), asked("e", key="k"),
        replace(other_body, idempotency=replace(other_body.idempotency, body="other")), replace(asked("g", entry="e"), check=check),
    ]  # fmt: skip
    assert placed(fresh(*apart, report(slots=9))) == ["a", "b", "c", "d", "e", "f", "g"]
    waits = replace(asked("h", entry="e"), check=replace(check, served=False))
    assert placed(fresh(waits, asked("i", entry="e"), report(slots=9))) == ["h"], "its client waits for the answer"
    assert shared_end(asked("i", entry="e"), replace(finished("h", 1, of=waits), check=waits.check), START).check is None


def test_a_follower_whose_leader_failed_is_tried_on_its_own() -> None:
    """The most urgent of them leads the others now."""
    first = asked("a", entry="e")
    state = fresh(first, asked("b", entry="e"), asked("c", priority=1, entry="e"), asked("d", entry="e"), report(slots=9))
    assert placed(state) == ["a"]
    evolve(state, finished("a", 1, "failed"), START)
    assert placed(state) == ["c"]
    evolve(state, finished("c", 1, of=asked("c", entry="e")), START)
    assert ends(state) == dict.fromkeys("bd", ("completed", "c/1"))


def test_followers_go_on_when_the_deadline_of_their_leader_cuts_it_off_and_fail_by_their_own() -> None:
    """Waiting or running, a deadline is each request's own."""
    state = fresh(asked("a", START + 2_000, entry="e"), asked("b", START + 1_000, entry="e"), asked("c", START + 3_000, entry="e"))
    assert ends(state, START + 800) == {"b": ("failed", "")}
    assert ends(state, START + 1_800) == {"a": ("failed", "")}
    evolve(state, report(at=START + 1_900), START + 1_900)
    assert placed(state, START + 1_900) == ["c"]


def test_a_leader_is_as_urgent_as_its_most_urgent_follower_for_as_long_as_it_has_it() -> None:
    """A follower that ends takes its urgency along."""
    urgent = asked("c", START + 1_000, priority=5, entry="e")
    before = fresh(asked("a", entry="e"), asked("b", priority=1), urgent, report(slots=1))
    assert placed(before) == ["a"]
    after = fresh(asked("a", entry="e"), asked("b", priority=1), urgent)
    assert ends(after, START + 900) == {"c": ("failed", "")}
    evolve(after, report(at=START + 900, slots=1), START + 900)
    assert placed(after, START + 900) == ["b"]


def test_a_leader_that_moves_keeps_its_followers() -> None:
    """Its worker restarts: it is placed again, and nobody else."""
    state = fresh(asked("a", entry="e"), asked("b", entry="e"), report(slots=9))
    assert placed(state) == ["a"]
    evolve(state, report(at=START + 1, incarnation=2, slots=9), START + 1)
    assert placed(state, START + 1) == ["a"]
    assert state.groups.leader_of == {"b": "a"}


def test_an_answer_serves_who_comes_a_moment_late_and_no_longer() -> None:
    """It is on its way to where known answers are looked up. A key gets the same answer for longer."""
    first = asked("a", entry="e", key="k")
    state = fresh(first, report(slots=9))
    decide(state, START)
    evolve(state, finished("a", 1, of=first), START)
    late = [asked("b", entry="e", at=START + FRESH_MS), asked("c", entry="e", at=START + FRESH_MS + 1)]
    keyed = asked("d", START + 2 * KEYED_KEPT_MS, key="k", at=START + KEYED_KEPT_MS)
    for request in (*late, keyed):
        evolve(state, request, START + FRESH_MS)
    shared = ends(state, START + FRESH_MS)
    assert shared == {"b": ("completed", "a/1"), "d": ("completed", "a/1")}
    decide(state, START + KEYED_KEPT_MS + 1)
    assert not state.recent.by_token


def test_a_key_binds_those_who_share_it_through_others() -> None:
    """`b` gets the answer of `a` by its entry, so `c` with the key of `b` gets that too, whenever it comes, after a rebuilding too."""
    first, second, third = asked("a", entry="e"), asked("b", entry="e", key="k"), asked("c", key="k")
    log = [first, second]
    state = fresh(*log, report(slots=9))
    decide(state, START)
    log.append(finished("a", 1, of=first))
    evolve(state, log[-1], START)
    log += [e for e in decide(state, START) if isinstance(e, GenerationFinished)]
    for one in (state, fresh(*log)):
        evolve(one, third, START)
        assert ends(one) == {"c": ("completed", "a/1")}


def test_a_rebuilt_state_answers_who_was_not_and_nobody_twice() -> None:
    """The leader's result is on the log, and the end of one follower: only the other one is answered again."""
    requests = [asked(r, entry="e") for r in "abc"]
    result = finished("a", 1, of=requests[0])
    state = fresh(*requests, result, shared_end(requests[1], result, START))
    assert ends(state) == {"c": ("completed", "a/1")}


def test_who_came_while_the_state_was_rebuilt_follows_what_is_placed() -> None:
    """`x` was heard before the older records were read: `a`, which a worker has, must not be computed a second time for it."""
    before = fresh(asked("a", entry="e"), report(slots=9))
    (dispatch,) = (e for e in decide(before, START) if isinstance(e, RequestDispatched))
    state = fresh(asked("x", entry="e"), asked("y", entry="e"), asked("a", entry="e"), dispatch, report(running={"a": 1}, slots=9))
    assert placed(state) == []
    assert state.groups.leader_of == {"x": "a", "y": "a"}


def test_the_final_event_of_a_follower_is_its_own() -> None:
    """Its id, place and times, the leader's text, and whose computation that was; nothing is learned from its end."""
    leader = asked("a", entry="e")
    here = Position(topic="mine", partition=3, offset=7)
    request: DeepLearningRequested = replace(asked("b", entry="e", at=START + 5), source=here)
    result = finished("a", 1, of=leader)
    final, end = shared_final(request, result, START + 9), shared_end(request, result, START + 9)
    assert (final.request_id, final.requested_at, final.completed_at, final.source) == ("b", START + 5, START + 9, here)
    assert (final.text, final.shared_with, final.tier) == ("a/1", "a", "deep-learning")
    assert (end.request_id, end.entry_id, end.worker, end.outcome) == ("b", None, "", "completed")
