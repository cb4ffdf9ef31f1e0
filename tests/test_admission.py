"""Admission and routing: what is let in, with which deadline and place for replies, and what makes two requests identical."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from schemas.events import InferenceRequested, Message, Parameters, Position
from schemas.headers import RecordHeaders
from schemas.ids import uuid7
from streams.admission import AdmissionLimits, Admitted, RequestRefused, admit, check_size
from streams.routing import EntryIds, partition_for, routing_key
from streams.topics import RESPONSES, reply_topic

NOW = 1_700_000_000_000
REQUEST_ID = uuid7(NOW, 1)
NO_HEADERS = RecordHeaders()
LIMITS = AdmissionLimits(
    models=frozenset({"small", "large"}), default_model="small", tenants=frozenset({"acme", "globex"}), partitions=4,
    max_request_bytes=1000, max_tokens_limit=512, default_max_tokens=64, default_deadline_ms=60_000,
    max_deadline_ms=600_000, known_max_temperature=0.0, task_models={"classify": ("intents",), "embed": ("minilm", "other")},
)  # fmt: skip
ASKED = InferenceRequested(
    request_id=REQUEST_ID, tenant="acme", model="large", messages=(Message(role="user", content="Why?"),),
    parameters=Parameters(max_tokens=10), requested_at=NOW - 5,
)  # fmt: skip
ENTRY_IDS = EntryIds("a secret", {})
KNOWN_WORDS = ["", "acme", "globex", "small", "large", "user", "system", "generate", "default", "no-store", "é"]
WORDS = st.sampled_from(KNOWN_WORDS) | st.text(max_size=5)
PARAMETERS = st.builds(
    Parameters, max_tokens=st.none() | st.integers(-2, 600), temperature=st.floats(), top_p=st.floats(), seed=st.none() | st.integers(),
    stop=st.lists(st.text(max_size=3), max_size=10).map(tuple), labels=st.just(()) | st.lists(st.text(max_size=3), max_size=3).map(tuple),
)  # fmt: skip
FINITE = st.floats(0, 2)
TURNS = st.lists(st.builds(Message, role=WORDS, content=WORDS), max_size=3).map(tuple)
TIMES = st.integers(-(2**63), 2**63 - 1) | st.integers(NOW - 10_000, NOW + 10**6)
REQUESTS = st.builds(
    InferenceRequested, request_id=st.just(REQUEST_ID) | WORDS, tenant=WORDS, model=WORDS,
    task=st.sampled_from(["generate", "classify"]) | WORDS, messages=TURNS,
    parameters=PARAMETERS, priority=st.integers(), cache=st.just("default") | WORDS, requested_at=TIMES, deadline_at=st.none() | TIMES,
)  # fmt: skip
SCOPED = st.builds(
    lambda request, temperature, top_p: replace(request, parameters=replace(request.parameters, temperature=temperature, top_p=top_p)),
    REQUESTS, FINITE, FINITE,
)  # fmt: skip
NEARLY_WHOLE = st.builds(  # what is random all over is hardly ever let in
    lambda request, names: replace(ASKED, **{name: getattr(request, name) for name in names}),
    REQUESTS, st.sets(st.sampled_from([f for f in asdict(ASKED) if f != "request_id"]), max_size=3),
)  # fmt: skip
PLACES = st.builds(Position, topic=st.just(RESPONSES) | WORDS.map(reply_topic) | WORDS, partition=st.integers(-1, 9), offset=st.just(-1))
HEADERS = st.builds(RecordHeaders, deadline_ms=st.none() | TIMES, reply_to=st.none() | PLACES)


def asked(**changes: Any) -> InferenceRequested:
    """A request that is let in, but for the changes; those of Parameters by their names."""
    parameters = {k: changes.pop(k) for k in asdict(ASKED.parameters) if k in changes}
    return replace(ASKED, **changes, parameters=replace(ASKED.parameters, **parameters))


def admitted(headers: RecordHeaders = NO_HEADERS, **changes: Any) -> Admitted:
    """What admission says to it."""
    return admit(asked(**changes), headers, LIMITS, NOW)


def test_what_is_whole_goes_on_as_it_came() -> None:
    """Nothing is made up, least of all a seed."""
    assert admitted().request == ASKED
    assert admitted().deadline_ms == NOW - 5 + 60_000


def test_defaults_are_filled_in() -> None:
    """Model, tokens, deadline and place; the seed stays open, so that identical requests stay identical."""
    bare = admitted(model="", max_tokens=None)
    assert bare.request == asked(model="small", max_tokens=64)
    assert bare.reply_to == Position(topic=RESPONSES, partition=partition_for(REQUEST_ID.encode(), 4), offset=-1)
    assert ENTRY_IDS.entry_id(bare.request) == ENTRY_IDS.entry_id(asked(model="small", max_tokens=64))


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("bad_request_id", {"request_id": ""}), ("bad_request_id", {"request_id": "6f0c2c52-7f4f-4f8e-9d5c-0d6a3f1f2b11"}),
        ("unknown_tenant", {"tenant": ""}), ("unknown_tenant", {"tenant": "Acme"}), ("unknown_model", {"model": "huge"}),
        *(("deadline_passed", changes) for changes in ({"deadline_at": NOW}, {"deadline_at": 0}, {"requested_at": NOW - 60_000})),
        *(("invalid_request", changes) for changes in (
            {"task": "translate"}, {"task": ""}, {"cache": "always"},
            {"messages": ()}, {"messages": (Message(role="assistant", content="x"),)},
            {"messages": (Message(role="tool", content="x"), *ASKED.messages)}, {"messages": (Message(role="user", content=" \n"),)},
            {"max_tokens": 0}, {"max_tokens": 513}, {"temperature": -0.1}, {"temperature": 2.1}, {"temperature": float("nan")},
            {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": float("nan")}, {"stop": ("x",) * 9}, {"stop": ("x", "")},
            {"labels": ("a", "")}, {"labels": ("a", "a")}, {"labels": (" a",)}, {"labels": ("a",), "stop": ("x",)},
            {"labels": tuple(map(str, range(1001)))},
            {"idempotency_key": ""}, {"idempotency_key": "k" * 256}, {"idempotency_key": "k\n"},
        )),
    ],
)  # fmt: skip
def test_refusals(code: str, changes: dict[str, Any]) -> None:
    """Each says for what, and what to do; sending the same again would not help."""
    with pytest.raises(RequestRefused) as refused:
        admitted(**changes)
    assert refused.value.code == code
    assert str(refused.value) and refused.value.remedy
    assert not refused.value.retryable


SMALL = {"model": "", "max_tokens": None}


@pytest.mark.parametrize(("task", "model"), [("classify", "intents"), ("embed", "minilm")])
def test_small_tasks_have_models_of_their_own(task: str, model: str) -> None:
    """The first is the default; nothing of generation is filled in, and a language model is none of theirs."""
    assert admitted(task=task, **SMALL).request == asked(task=task, model=model, max_tokens=None)
    with pytest.raises(RequestRefused, match="for the task") as refused:
        admitted(task=task, model="large", max_tokens=None)
    assert (refused.value.code, model in refused.value.remedy) == ("unknown_model", True)
    with pytest.raises(RequestRefused):
        admitted(model=model)


@pytest.mark.parametrize(
    "changes", [{"max_tokens": 5}, {"temperature": 0.5}, {"top_p": 0.5}, {"seed": 1}, {"stop": ("x",)}, {"task": "embed", "labels": ("a",)}]
)
def test_small_tasks_refuse_what_means_nothing_to_them(changes: dict[str, Any]) -> None:
    """Who sets it expects something that will not happen."""
    with pytest.raises(RequestRefused, match="task") as refused:
        admitted(**(SMALL | {"task": "classify"} | changes))
    assert refused.value.code == "invalid_request"


def test_labels_go_with_classifying_and_generating() -> None:
    """And they are part of what makes two requests identical; without any, keys are as they always were."""
    labels = ("yes", "no")
    assert admitted(labels=labels).request.parameters.labels == labels
    assert admitted(task="classify", labels=labels, **SMALL).request.parameters.labels == labels
    assert ENTRY_IDS.entry_id(asked(labels=labels)) != ENTRY_IDS.entry_id(asked(labels=labels[:1])) != ENTRY_IDS.entry_id(ASKED)


def test_a_task_without_models_is_not_served() -> None:
    """An installation without small models says what it has."""
    bare = dataclasses.replace(LIMITS, task_models={})
    with pytest.raises(RequestRefused, match="not served") as refused:
        admit(asked(task="embed", **SMALL), NO_HEADERS, bare, NOW)
    assert refused.value.remedy.endswith("generate")


def test_borders_are_let_in() -> None:
    """The most and the least that is allowed."""
    admitted(max_tokens=512, temperature=2.0, top_p=1e-9, stop=("x",) * 8, deadline_at=NOW + 1)
    admitted(max_tokens=1, messages=(Message(role="system", content=""), Message(role="assistant", content=""), *ASKED.messages))


def test_size_is_checked_before_decoding() -> None:
    """A tombstone has none; what is larger than allowed is refused with both numbers."""
    check_size(None, LIMITS)
    check_size(bytes(1000), LIMITS)
    with pytest.raises(RequestRefused, match="1001 bytes, 1000 are allowed") as refused:
        check_size(bytes(1001), LIMITS)
    assert refused.value.code == "too_large"


@pytest.mark.parametrize(
    ("event", "header", "ends"),
    [
        (None, None, NOW - 5 + 60_000), (NOW + 7, None, NOW + 7), (None, NOW + 7, NOW + 7), (NOW + 7, NOW + 9, NOW + 7),
        (NOW + 9, NOW + 7, NOW + 7), (NOW + 10**9, None, NOW + 600_000), (NOW + 10**9, NOW + 10**8, NOW + 600_000),
    ],
)  # fmt: skip
def test_deadline_is_the_earlier_wish_and_never_beyond_the_longest(event: int | None, header: int | None, ends: int) -> None:
    """Of the event's and the header's; without either it is the default."""
    assert admitted(RecordHeaders(deadline_ms=header), deadline_at=event).deadline_ms == ends


def test_a_header_can_end_a_request_too() -> None:
    """And a clock that runs ahead does not lengthen the default."""
    with pytest.raises(RequestRefused, match="passed 1 ms ago"):
        admitted(RecordHeaders(deadline_ms=NOW - 1), deadline_at=NOW + 9)
    assert admitted(requested_at=NOW + 10**9).deadline_ms == NOW + 60_000


@pytest.mark.parametrize(
    ("topic", "partition", "own"),
    [
        (RESPONSES, 3, True), (RESPONSES, 0, True), (reply_topic("acme"), 2, True), (reply_topic("globex"), 2, False),
        (RESPONSES, 4, False), (RESPONSES, -1, False), (reply_topic("acme"), 4, False),
        ("inference.requests", 1, False), ("knowledge.answers", 1, False),
    ],
)  # fmt: skip
def test_replies_go_where_the_tenant_may_read(topic: str, partition: int, own: bool) -> None:
    """Any other wish is answered on the common topic: a request can't make us write elsewhere."""
    wish = Position(topic=topic, partition=partition, offset=-1)
    common = Position(topic=RESPONSES, partition=partition_for(REQUEST_ID.encode(), 4), offset=-1)
    assert admitted(RecordHeaders(reply_to=wish)).reply_to == (wish if own else common)


@pytest.mark.parametrize(("cache", "learned", "served"), [("default", True, True), ("no-cache", True, False), ("no-store", False, False)])
def test_only_what_is_repeatable_is_learned_or_known(cache: str, learned: bool, served: bool) -> None:
    """no-cache asks anew and may teach; no-store leaves nothing behind; what is sampled is neither."""
    assert (admitted(cache=cache).cacheable, admitted(cache=cache).known_allowed) == (learned, served)
    sampled = admitted(cache=cache, temperature=0.1)
    assert (sampled.cacheable, sampled.known_allowed) == (False, False)


@settings(max_examples=400, deadline=None)
@given(REQUESTS | NEARLY_WHOLE, HEADERS, TIMES)
def test_admission_only_ever_refuses(request: InferenceRequested, headers: RecordHeaders, now_ms: int) -> None:
    """Whatever is decoded is let in whole, ends in the future and is answered where its tenant may read, or is refused."""
    with contextlib.suppress(RequestRefused):
        entered = admit(request, headers, LIMITS, now_ms)
        assert now_ms < entered.deadline_ms <= now_ms + LIMITS.max_deadline_ms
        assert entered.request.model in LIMITS.models_of(entered.request.task)
        assert entered.request.task != "generate" or 1 <= (entered.request.parameters.max_tokens or 0) <= 512
        assert entered.reply_to.topic in (RESPONSES, reply_topic(request.tenant))
        assert 0 <= entered.reply_to.partition < LIMITS.partitions
        assert admit(entered.request, headers, LIMITS, now_ms).request == entered.request
        assert routing_key(entered.request) and ENTRY_IDS.entry_id(entered.request)


@settings(deadline=None)
@given(REQUESTS, REQUESTS)
def test_identical_requests_share_key_and_entry(request: InferenceRequested, other: InferenceRequested) -> None:
    """Who asked, when, how urgently and until when makes no difference; nor does the seed where nothing is sampled."""
    names = ("request_id", "priority", "cache", "requested_at", "deadline_at")
    same = replace(request, **{name: getattr(other, name) for name in names})
    assert (routing_key(same), ENTRY_IDS.entry_id(same)) == (routing_key(request), ENTRY_IDS.entry_id(request))
    greedy = [replace(request, parameters=replace(request.parameters, temperature=0.0, seed=seed)) for seed in (None, 1, 2)]
    assert len({ENTRY_IDS.entry_id(r) for r in greedy}) == len({routing_key(r) for r in greedy}) == 1


@settings(deadline=None)
@given(SCOPED, SCOPED, st.sampled_from(["tenant", "model", "task", "messages", "parameters"]))
def test_any_difference_makes_another_entry(request: InferenceRequested, other: InferenceRequested, name: str) -> None:
    """Tenants, models, prompts, system prompts and parameters never share an answer."""
    changed = replace(request, **{name: getattr(other, name)})
    assume(scope(request) != scope(changed))
    assert ENTRY_IDS.entry_id(request) != ENTRY_IDS.entry_id(changed)
    assert routing_key(request) != routing_key(changed)


def test_entries_are_keyed_by_tenant_and_secret() -> None:
    """Who knows the text alone can't compute the id; the id is pinned, since another one makes all knowledge cold."""
    assert ENTRY_IDS.entry_id(ASKED) == EntryIds("a secret", {}).entry_id(ASKED) == "9c852a7157c520f738e9689a0d91730800de9976"
    assert routing_key(ASKED) == b"02bc1fa931c79c0131c7653d00963cb1"
    assert len({ids.entry_id(asked(tenant=t)) for ids in (ENTRY_IDS, EntryIds("another", {})) for t in ("acme", "globex")}) == 4


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971), (b"abc", 479470107),
    ],
)  # fmt: skip
def test_partitions_are_those_of_the_java_client(key: bytes, hashed: int) -> None:
    """murmur2 as in Kafka's own tests (UtilsTest.testMurmur2), its sign bit dropped as in Utils.toPositive."""
    for partitions in (1, 4, 7, 100):
        assert partition_for(key, partitions) == (hashed & 0x7FFFFFFF) % partitions


def scope(request: InferenceRequested) -> tuple[Any, ...]:
    """What an answer depends on; the seed only where something is sampled."""
    p = request.parameters
    effective = replace(p, seed=p.seed if p.temperature > 0 else None)
    return request.tenant, request.model, request.task, request.messages, effective
