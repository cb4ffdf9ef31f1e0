"""The contract of `GenerationEngine`, run for every engine, with a tiny random model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streams.engine import ChatMessage, EngineBusy, GenerationEngine, PromptTooLong
from streams.errors import PoisonError, RetryableError
from tests.engine_contract import ENGINES, Answer, answer, request, until
from tests.tiny_model import make_tiny_model

SLOTS = 3
PROMPTS = ("a", "what is the capital of France? " * 4, "tell me", "x" * 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the tiny model."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture
def now() -> list[float]:
    """The engine's time in its only element; a test moves it on."""
    return [1000.0]


@pytest.fixture(params=list(ENGINES))
async def engine(request: pytest.FixtureRequest, folder: Path, now: list[float]) -> AsyncIterator[GenerationEngine]:
    """A started engine with 3 slots."""
    made = ENGINES[request.param](folder, SLOTS, lambda: now[0])
    await made.start()
    yield made
    await made.close()


async def test_a_mixed_batch_answers_as_each_request_alone(engine: GenerationEngine) -> None:
    """Greedy tokens do not depend on who shares the batch, on padding, or on who joins and leaves meanwhile."""
    wanted = [request(prompt, max_tokens=10 + 15 * number) for number, prompt in enumerate(PROMPTS)]
    alone = [await answer(engine, one) for one in wanted]
    mixed = await asyncio.gather(*(answer(engine, one) for one in wanted))
    assert [one.token_ids for one in mixed] == [one.token_ids for one in alone]
    assert [one.text for one in mixed] == [one.text for one in alone]
    assert max(chunk.batch_size for one in mixed for chunk in one.chunks) == SLOTS


async def test_a_request_joins_while_others_are_in_the_middle(engine: GenerationEngine) -> None:
    """Long and short ones, each joining after the other began: tokens stay the same."""
    wanted = [request("one", max_tokens=60), request("x" * 290, max_tokens=8), request("three", max_tokens=30)]
    alone = [await answer(engine, one) for one in wanted]
    began = asyncio.Event()
    first = asyncio.create_task(answer(engine, wanted[0], lambda got: began.set() if len(got.chunks) > 5 else None))
    await began.wait()
    others = [asyncio.create_task(answer(engine, one)) for one in wanted[1:]]
    mixed = [await first, *[await other for other in others]]
    assert [one.token_ids for one in mixed] == [one.token_ids for one in alone]


async def test_length(engine: GenerationEngine) -> None:
    """An answer ends at max_tokens, and says how long the prompt was."""
    got = await answer(engine, request("a", max_tokens=5))
    assert (len(got.token_ids), got.finish) == (5, "length")
    assert got.chunks[0].prompt_tokens > 5


async def test_end_token(tmp_path: Path) -> None:
    """The end token ends the answer; it counts as a token and is not shown."""
    for make in ENGINES.values():
        engine = make(make_tiny_model(tmp_path, seed=3, ends=True), SLOTS, time.time)
        await engine.start()
        got = await answer(engine, request("b", max_tokens=100))
        await engine.close()
        assert got.finish == "stop"
        assert "<|end|>" not in got.text
        assert len(got.chunks[-1].token_ids) == 1


async def test_sampling_is_reproducible_and_independent_of_the_batch(engine: GenerationEngine) -> None:
    """The same seed draws the same tokens alone and among others; another seed draws others."""
    sampled = {"temperature": 1.0, "top_p": 0.9}
    alone = await answer(engine, request("a", seed=7, **sampled))
    mixed = await asyncio.gather(*(answer(engine, request("a", request_id=str(seed), seed=seed, **sampled)) for seed in (6, 7, 8)))
    assert mixed[1].token_ids == alone.token_ids
    assert len({tuple(one.token_ids) for one in mixed}) == 3


async def test_low_temperature_and_small_top_p_are_greedy(engine: GenerationEngine) -> None:
    """Both ends of the parameters meet the greedy answer."""
    greedy = await answer(engine, request("a"))
    assert (await answer(engine, request("a", temperature=1e-4))).token_ids == greedy.token_ids
    assert (await answer(engine, request("a", temperature=2.0, top_p=1e-6))).token_ids == greedy.token_ids


async def test_stop_string_ends_the_answer_before_it(engine: GenerationEngine) -> None:
    """Also one that spans tokens; nothing of it is shown."""
    whole = (await answer(engine, request("a", max_tokens=40))).text
    stop = whole[6:9]
    got = await answer(engine, request("a", max_tokens=40, stop=(stop,)))
    assert (got.text, got.finish) == (whole[: whole.index(stop)], "stop")


LABELS = ("balance", "transfer", "transfer_money", "no intent")


async def test_labels_bound_the_answer(engine: GenerationEngine) -> None:
    """The answer is one of them, word for word, whatever the model would rather say, at any temperature, and however few tokens it may."""
    for prompt in PROMPTS:
        got = await answer(engine, request(prompt, labels=LABELS, max_tokens=2))
        assert (got.text in LABELS, got.finish) == (True, "stop")
        assert got.token_ids == (await answer(engine, request(prompt, labels=LABELS))).token_ids
    sampled = [await answer(engine, request("a", labels=LABELS, temperature=2.0, seed=seed)) for seed in range(12)]
    assert {got.text for got in sampled} <= set(LABELS)
    assert len({got.text for got in sampled}) > 1
    again = await answer(engine, request("a", labels=LABELS, temperature=2.0, seed=3))
    assert again.token_ids == sampled[3].token_ids


async def test_labels_within_a_running_batch(engine: GenerationEngine) -> None:
    """Constrained and free requests share the batch, and each answers as alone."""
    wanted = [request("one", max_tokens=40), request("two", labels=LABELS), request("three", labels=("yes", "no"), request_id="3")]
    alone = [await answer(engine, one) for one in wanted]
    mixed = await asyncio.gather(*(answer(engine, one) for one in wanted))
    assert [one.token_ids for one in mixed] == [one.token_ids for one in alone]
    assert max(chunk.batch_size for chunk in mixed[0].chunks) == SLOTS


async def test_labels_that_are_no_text_are_poison(engine: GenerationEngine) -> None:
    """An empty label, and one that would end the answer."""
    for label in ("", "<|end|>"):
        assert isinstance((await answer(engine, request("a", labels=("fine", label)))).error, PoisonError)


async def test_cancel_frees_the_slot(engine: GenerationEngine) -> None:
    """The stream ends with "cancelled" at the next step, and the slot serves somebody else."""

    def cancel(got: Answer) -> None:
        if len(got.chunks) == 3:
            engine.cancel("a")

    got = await answer(engine, request("a", max_tokens=400), cancel)
    assert (got.finish, len(got.token_ids) < 400) == ("cancelled", True)
    assert engine.capacity().in_flight == 0
    assert (await answer(engine, request("b"))).finish == "length"


async def test_closing_the_iterator_cancels(engine: GenerationEngine) -> None:
    """Who stops reading stops the work."""
    stream = engine.generate(request("a", max_tokens=400))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: engine.capacity().in_flight == 0)


async def test_deadline(engine: GenerationEngine, now: list[float]) -> None:
    """Reached in the middle it ends the answer; reached before, nothing is generated."""

    def pass_time(got: Answer) -> None:
        now[0] += 1.0

    got = await answer(engine, request("a", max_tokens=400, deadline=1005.0), pass_time)
    assert (got.finish, 0 < len(got.token_ids) < 400) == ("deadline", True)
    late = await answer(engine, request("b", deadline=1.0))
    assert (late.finish, late.token_ids) == ("deadline", [])


async def test_busy(engine: GenerationEngine) -> None:
    """More than two requests per slot are refused; those in flight are served."""
    tasks = [asyncio.create_task(answer(engine, request(str(number), max_tokens=30))) for number in range(2 * SLOTS)]
    await until(lambda: engine.capacity().in_flight == 2 * SLOTS)
    assert isinstance((await answer(engine, request("more"))).error, EngineBusy)
    assert [(await task).finish for task in tasks] == ["length"] * (2 * SLOTS)


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": (ChatMessage("tool", "x"),)},
        {"messages": ()},
        {"messages": (ChatMessage("user", "\ud800"),)},
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
    ],
)
async def test_what_can_never_succeed_is_poison(engine: GenerationEngine, changes: dict[str, object]) -> None:
    """It is refused at once with a remedy, and leaves nothing behind."""
    error = (await answer(engine, request("a", **changes))).error
    assert isinstance(error, PoisonError)
    assert error.remedy
    assert engine.capacity().in_flight == 0


async def test_prompt_too_long(engine: GenerationEngine) -> None:
    """Prompt and answer must fit the context of 512 tokens together."""
    assert isinstance((await answer(engine, request("x" * 600))).error, PromptTooLong)
    assert isinstance((await answer(engine, request("x", max_tokens=512))).error, PromptTooLong)


async def test_capacity(engine: GenerationEngine) -> None:
    """Rates are known after the start; what is in flight is counted."""
    idle = engine.capacity()
    assert (idle.slots, idle.in_flight, idle.tokens_in_flight) == (SLOTS, 0, 0)
    assert idle.prefill_tokens_per_s > 0
    assert idle.service_s > 0
    seen: list[int] = []
    await answer(engine, request("a"), lambda _: seen.append(engine.capacity().in_flight))
    assert seen[0] == 1


async def test_close_ends_what_runs(folder: Path) -> None:
    """Nobody hangs on a closed engine; before the start and after the end it refuses."""
    for make in ENGINES.values():
        engine = make(folder, SLOTS, time.time)
        assert isinstance((await answer(engine, request("a"))).error, RetryableError)
        await engine.start()
        tasks = [asyncio.create_task(answer(engine, request(str(number), max_tokens=400))) for number in range(5)]
        await until(lambda engine=engine: engine.capacity().in_flight == 5)
        await engine.close()
        errors = [(await task).error for task in tasks]
        assert all(isinstance(error, RetryableError) for error in errors)
        assert isinstance((await answer(engine, request("b"))).error, RetryableError)
