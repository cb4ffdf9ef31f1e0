"""Both vector indexes against one contract; lists of large scopes in process; Milvus away, killed and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.index.in_process import InProcessIndex
from connectors.index.milvus import IndexAway, MilvusIndex
from infra.local.milvus import Milvus
from infra.local.ports import Ports
from infra.local.progress import Silent
from infra.local.stack import Stack
from infra.settings import Settings
from streams.semantic.ports import IndexedEntry
from tests.index_contract import DIMENSIONS, IndexContract, entry, scope, unit


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus]:
    """A running Milvus Lite of its own."""
    component = started(tmp_path_factory.mktemp("milvus"))
    yield component
    component.stop()


def started(home: Path) -> Milvus:
    """The component, up."""
    component = Milvus(Settings(home=home), Ports(home))
    component.prepare(Silent())
    component.start()
    component.ready()
    return component


class TestInProcess(IndexContract):
    """The index inside the agent."""

    @pytest.fixture
    async def index(self) -> AsyncIterator[InProcessIndex]:
        """Empty."""
        index = InProcessIndex(DIMENSIONS)
        yield index
        await index.close()


@pytest.mark.stack
class TestMilvus(IndexContract):
    """Against the real server."""

    @pytest.fixture
    async def index(self, milvus: Milvus) -> AsyncIterator[MilvusIndex]:
        """A collection of its own, empty."""
        index = MilvusIndex(milvus.address()["url"], f"test-{uuid4().hex}", DIMENSIONS, timeout_s=10.0)
        yield index
        await index.close()


async def test_a_large_scope_finds_replaces_and_forgets() -> None:
    """Beyond exact comparison, and beyond lists being made anew: the nearest is found, removed ones are not."""
    index = InProcessIndex(DIMENSIONS)
    entries = [entry(f"q{seed}", seed) for seed in range(9_000)]
    await index.upsert(entries)
    probes = list(range(0, 9_000, 97))
    found = await index.search(scope("a"), unit(*probes), 3)
    assert sum(row[0].entry_id == scope(f"q{seed}") for row, seed in zip(found, probes, strict=True)) >= 0.98 * len(probes)
    await index.remove([scope(f"q{seed}") for seed in probes])
    assert await index.count() == 9_000 - len(probes)
    gone = {scope(f"q{seed}") for seed in probes}
    assert not any(match.entry_id in gone for row in await index.search(scope("a"), unit(*probes), 10) for match in row)
    await index.upsert([entry("q1", 5)])
    assert (await index.search(scope("a"), unit(5), 2))[0][1].similarity > 0.99
    await index.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 20), st.booleans()), max_size=40))
def test_any_order_of_changes_ends_as_a_dictionary_would(changes: list[tuple[int, int, int, bool]]) -> None:
    """Ids, scopes and vectors as they were last given, and not one match from another scope."""

    async def check() -> None:
        index, model = InProcessIndex(DIMENSIONS), dict[str, IndexedEntry]()
        for name, where, seed, gone in changes:
            if gone:
                await index.remove([scope(str(name))])
                model.pop(scope(str(name)), None)
            else:
                changed = entry(str(name), seed, str(where))
                await index.upsert([changed])
                model[changed.entry_id] = changed
        assert await index.count() == len(model)
        for where in {scope(str(n)) for n in range(4)}:
            found = (await index.search(where, unit(1), 50))[0]
            assert {m.entry_id for m in found} == {e.entry_id for e in model.values() if e.scope == where}
            for match in found:
                assert match.similarity == pytest.approx(float(np.dot(unit(1)[0], model[match.entry_id].vector)), abs=1e-5)
        await index.close()

    asyncio.run(check())


@pytest.mark.stack
async def test_milvus_killed_is_away_quickly_and_comes_back_with_its_data(tmp_path: Path) -> None:
    """kill -9: calls raise the retryable error within their limit; the same client goes on after the restart; nothing is lost."""
    server = started(tmp_path)
    index = MilvusIndex(server.address()["url"], "v1", DIMENSIONS, timeout_s=2.0)
    await index.upsert([entry(f"q{seed}", seed) for seed in range(10)])
    await index.remove([scope("q3")])
    assert server.child is not None
    server.child.kill()
    for call in (index.search(scope("a"), unit(1), 1), index.upsert([entry("x", 1)]), index.count()):
        with pytest.raises(IndexAway) as raised:
            await asyncio.wait_for(call, 25.0)
        assert raised.value.retryable
        assert "headrace" in raised.value.remedy
    server.start()
    server.ready()
    deadline = time.monotonic() + 20.0
    while True:
        try:
            found = await index.search(scope("a"), unit(1), 20)
            break
        except IndexAway:
            assert time.monotonic() < deadline
    assert {m.entry_id for m in found[0]} == {scope(f"q{seed}") for seed in range(10) if seed != 3}
    await index.close()
    server.stop()


async def test_nobody_at_the_address_is_the_retryable_error() -> None:
    """From the first call on."""
    index = MilvusIndex("http://127.0.0.1:9", "v1", DIMENSIONS, timeout_s=1.0)
    with pytest.raises(IndexAway):
        await index.search(scope("a"), unit(1), 1)
    await index.close()


@pytest.mark.parametrize(
    ("chosen", "is_started"),
    [({}, False), ({"index": "milvus"}, True), ({"with_milvus": True}, True), ({"index": "milvus", "milvus_url": "http://db:1"}, False)],
)
def test_the_stack_starts_milvus_only_where_it_is_wanted(chosen: dict[str, object], is_started: bool, tmp_path: Path) -> None:
    """By default there is none, which keeps `up` small; a URL of somebody's own replaces it."""
    stack = Stack(Settings(home=tmp_path, **chosen), {"admin": "x"}, [], Silent())
    assert ("milvus" in [component.name for component in stack.components]) == is_started
