"""What only the torch engine promises: equal to transformers' `generate`, and alive after a failure inside its thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from connectors.engines.torch_engine import TorchEngine
from infra import models
from infra.settings import Settings
from streams.engine import GenerationRequest
from streams.errors import PoisonError, RetryableError
from tests.engine_contract import Answer, answer, request
from tests.tiny_model import make_tiny_model

REAL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the tiny model."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[TorchEngine]:
    """A started engine with 2 slots."""
    made = TorchEngine("tiny", folder, "cpu", 2, 1)
    await made.start()
    yield made
    await made.close()


def by_transformers(engine: TorchEngine, wanted: GenerationRequest) -> list[int]:
    """Greedy answer of transformers' own loop to one request alone."""
    import torch

    lm = engine._lm
    assert lm is not None
    prompt = torch.tensor([lm.encode(wanted.messages)])
    mask = torch.ones_like(prompt)
    made = lm.model.generate(prompt, attention_mask=mask, max_new_tokens=wanted.max_tokens, do_sample=False, pad_token_id=0)
    return list(made[0, prompt.shape[1] :].tolist())


def script(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, token_ids: Sequence[int]) -> None:
    """Let the model say `token_ids`, whatever it is asked."""
    import torch

    script = iter(token_ids)
    assert engine._lm is not None

    def forward(inputs: dict[str, Any]) -> torch.Tensor:
        real(inputs)  # fills the cache
        return torch.nn.functional.one_hot(torch.tensor([next(script)]), engine._lm.model.config.vocab_size).float()

    real = engine._lm._forward
    monkeypatch.setattr(engine._lm, "_forward", forward)


async def test_equals_transformers(engine: TorchEngine) -> None:
    """Four requests of different lengths through two slots, one prompt longer than a prefill part."""
    wanted = [request("a", max_tokens=40), request("x" * 380, max_tokens=30), request("b"), request("hello " * 9, max_tokens=50)]
    mixed = await asyncio.gather(*(answer(engine, one) for one in wanted))
    assert [one.token_ids for one in mixed] == [by_transformers(engine, one) for one in wanted]


async def test_the_real_model_equals_transformers() -> None:
    """The same with the model that is served, which knows what it says."""
    settings = Settings()
    if not models.is_pulled(settings, REAL):
        await asyncio.to_thread(models.pull, settings, REAL, print)
    engine = TorchEngine(REAL, models.folder(settings, REAL), "cpu", 3)
    await engine.start()
    prompts = ("What is the capital of France?", "Count to ten.", "Write a haiku about rivers. " * 5, "Hi")
    wanted = [request(prompt, max_tokens=12 + 6 * number) for number, prompt in enumerate(prompts)]
    mixed = await asyncio.gather(*(answer(engine, one) for one in wanted))
    assert "Paris" in mixed[0].text
    assert [one.token_ids for one in mixed] == [by_transformers(engine, one) for one in wanted]
    await engine.close()


async def test_an_emoji_of_several_tokens_is_shown_whole(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of an incomplete character have tokens and no text; at the end what never became whole is shown as such."""
    assert engine._lm is not None
    tokens = engine._lm._tokenizer.encode("a😀b😀", add_special_tokens=False)
    script(engine, monkeypatch, tokens)
    got = await answer(engine, request("say", max_tokens=len(tokens) - 1))
    assert [chunk.text for chunk in got.chunks] == ["a", "", "", "", "😀", "b", "", "", "\ufffd"]
    assert all(chunk.token_ids for chunk in got.chunks)


async def test_a_failure_in_a_step_fails_only_what_was_running(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two running requests get a retryable error; the one that waited, and later ones, are served as ever."""
    assert engine._lm is not None
    alone = await answer(engine, request("c"))
    step, fail = engine._lm.step, asyncio.Event()

    def failing(*arguments: Any) -> Any:
        if fail.is_set():
            fail.clear()
            raise RuntimeError("CUDA out of memory")
        return step(*arguments)

    monkeypatch.setattr(engine._lm, "step", failing)
    fail_at_fifth = {"after": lambda got: fail.set() if len(got.chunks) == 5 else None}
    running = [
        asyncio.create_task(answer(engine, request("a", max_tokens=400), **fail_at_fifth)),
        asyncio.create_task(answer(engine, request("b", max_tokens=400))),
    ]
    waiting = asyncio.create_task(answer(engine, request("c")))
    assert [type((await task).error).__name__ for task in running] == ["StepFailed"] * 2
    assert (await waiting).token_ids == alone.token_ids
    assert (await answer(engine, request("c"))).token_ids == alone.token_ids
    assert engine.capacity().in_flight == 0


async def test_a_failure_in_a_prefill_fails_only_the_joiner(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs already is not touched."""
    assert engine._lm is not None
    prefill, joined = engine._lm.prefill, asyncio.Event()
    alone = await answer(engine, request("a", max_tokens=100))

    def failing(token_ids: list[int], *arguments: Any) -> Any:
        if len(token_ids) > 100:
            raise RuntimeError("no memory for so long a prompt")
        return prefill(token_ids, *arguments)

    monkeypatch.setattr(engine._lm, "prefill", failing)
    running = asyncio.create_task(answer(engine, request("a", max_tokens=100), lambda _: joined.set()))
    await joined.wait()
    assert isinstance((await answer(engine, request("x" * 200))).error, RetryableError)
    assert (await running).token_ids == alone.token_ids


async def test_when_the_thread_dies_nobody_hangs(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody in flight and everybody later gets a retryable error."""

    def die() -> None:
        raise SystemExit("gone")

    assert engine._lm is not None
    monkeypatch.setattr(engine._lm, "recover", die)
    monkeypatch.setattr(engine._lm, "step", lambda *_: 1 / 0)
    got: list[Answer] = await asyncio.gather(*(answer(engine, request(str(number))) for number in range(4)))
    assert all(isinstance(one.error, RetryableError) for one in got)
    assert isinstance((await answer(engine, request("later"))).error, RetryableError)


async def test_the_event_loop_is_not_blocked(engine: TorchEngine) -> None:
    """While a long answer is made, a sleeper wakes up in time."""
    task = asyncio.create_task(answer(engine, request("a", max_tokens=300)))
    worst = 0.0
    while not task.done():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        worst = max(worst, time.perf_counter() - began)
    assert worst < 0.25, f"asyncio stood still for {worst:.3f} s"


async def test_a_folder_without_a_model_fails_the_start(tmp_path: Path) -> None:
    """The error reaches the caller of start, with a remedy."""
    engine = TorchEngine("none", tmp_path, "cpu", 1)
    with pytest.raises(PoisonError, match=r"config\.json"):
        await engine.start()
    await engine.close()
