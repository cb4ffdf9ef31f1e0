"""Java programs of the local stack: fetched once by Maven coordinate with jgo, each file checked against a committed sha256.

`artifacts.json` lists every file, so a start resolves nothing and asks no server when the cache is full. To change a version, edit
PINNED and run `python -m infra.local.artifacts`, which resolves and fetches anew and writes that list.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from infra.local.progress import Progress, RichProgress, Silent
from streams.errors import RetryableError

PINNED = {
    "kafka": ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36"),  # without the second Kafka logs nothing
    "registry": ("io.apicurio:apicurio-registry-app:3.3.3:all:tar.gz",),
}
_LIST = Path(__file__).with_name("artifacts.json")
_TIMEOUT_S = 60
_ATTEMPTS = 4
_PART = ".part-"


class DownloadFailed(RetryableError):
    """A program could not be fetched whole: check the network and proxy settings, and run the command again; what arrived is kept."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file: its coordinate `group:artifact:version:classifier:packaging`, its size and digest."""

    coordinate: str
    sha256: str
    bytes: int

    @property
    def filename(self) -> str:
        """Its name in the cache, as Maven names it."""
        _, artifact, version, classifier, packaging = self.coordinate.split(":")
        return f"{artifact}-{version}{'-' if classifier else ''}{classifier}.{packaging}"


class Artifacts:
    """The cache folder. A file gets its final name once its digest was right: a killed download leaves nothing that looks whole."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._files = cache / "jars"

    def kafka_classpath(self, progress: Progress) -> list[Path]:
        """Kafka's jars, fetched where missing. Raises DownloadFailed."""
        return self._fetch_all(_listed("kafka"), progress)

    def registry_folder(self, progress: Progress) -> Path:
        """Apicurio's unpacked folder. The archive is deleted after that: 158 MB that nothing reads again. Raises DownloadFailed."""
        (archive,) = _listed("registry")
        folder = self._cache / "registry" / archive.sha256[:16]
        if folder.exists():
            return folder
        (packed,) = self._fetch_all([archive], progress)
        progress.note(f"unpacking {archive.filename}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_PART) as part:
            content = Path(part) / "content"
            shutil.unpack_archive(packed, content, "gztar")
            with suppress(OSError):  # not empty: another home's stack was first, with the same content
                content.rename(folder)
        packed.unlink(missing_ok=True)
        return folder

    def _fetch_all(self, artifacts: list[Artifact], progress: Progress) -> list[Path]:
        missing = [artifact for artifact in artifacts if not self._whole(artifact)]
        if missing:
            self._files.mkdir(parents=True, exist_ok=True)
            self._drop_abandoned()
            with ThreadPoolExecutor(4) as pool:  # Maven Central answers each of the 45 small files in 100-300 ms
                list(pool.map(partial(self._fetch, progress=progress), missing))
        return [self._files / artifact.filename for artifact in artifacts]

    def _drop_abandoned(self) -> None:
        """Folders of downloads that were killed. An hour is longer than any that still runs."""
        for part in self._files.glob(f"{_PART}*"):
            if time.time() - part.stat().st_mtime > 3600:
                shutil.rmtree(part, ignore_errors=True)

    def _whole(self, artifact: Artifact) -> bool:
        """Read and compare each time: all of Kafka's jars take 0.05 s, and a damaged jar fails in ways nobody can read."""
        path = self._files / artifact.filename
        return path.exists() and path.stat().st_size == artifact.bytes and _sha256(path) == artifact.sha256

    def _fetch(self, artifact: Artifact, progress: Progress) -> None:
        reason = ""
        for attempt in range(_ATTEMPTS):
            try:
                with tempfile.TemporaryDirectory(dir=self._files, prefix=_PART) as part:
                    path = _download(artifact.coordinate, Path(part), progress)
                    if _sha256(path) == artifact.sha256:
                        path.replace(self._files / artifact.filename)
                        return
                    reason = "its sha256 is not the expected one"
            except (OSError, RuntimeError) as error:  # what requests and jgo raise
                reason = str(error)
            progress.trouble(f"{artifact.filename}: {reason}; attempt {attempt + 1} of {_ATTEMPTS}")
            time.sleep(2**attempt * 0.5)
        raise DownloadFailed("download_failed", f"{artifact.coordinate}: {reason}", "check network and proxy (HTTPS_PROXY), then try again")


def write_list(target: Path = _LIST) -> None:
    """Resolve PINNED with all transitive files, fetch them, and write their digests."""
    listed: dict[str, list[dict[str, Any]]] = {}
    for program, coordinates in PINNED.items():
        with tempfile.TemporaryDirectory() as part:
            found = {name: _download(name, Path(part), RichProgress()) for name in _resolve(coordinates, Path(part))}
            listed[program] = [asdict(Artifact(name, _sha256(path), path.stat().st_size)) for name, path in found.items()]
    target.write_text(json.dumps(listed, indent=1) + "\n")


def _listed(program: str) -> list[Artifact]:
    return [Artifact(**entry) for entry in json.loads(_LIST.read_text())[program]]


def _context(repo_cache: Path, progress: Progress) -> Any:
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 - takes 0.3 s, and is needed only when something is missing

    return MavenContext(resolver=PythonResolver(progress_callback=progress.download), repo_cache=repo_cache, timeout=_TIMEOUT_S)


def _download(coordinate: str, repo_cache: Path, progress: Progress) -> Path:
    group, artifact, version, classifier, packaging = coordinate.split(":")
    component = _context(repo_cache, progress).project(group, artifact).at_version(version)
    return Path(component.artifact(classifier, packaging).resolve())


def _resolve(coordinates: tuple[str, ...], repo_cache: Path) -> list[str]:
    """Coordinates of these and all they need at run time; an archive holds its own."""
    if coordinates[0].count(":") == 4:
        return list(coordinates)
    context = _context(repo_cache, Silent())
    inputs, transitive = context.resolver.resolve([context.create_dependency(name) for name in coordinates])
    needed = [*inputs, *(found for found in transitive if found.scope in ("compile", "runtime"))]
    return [f"{d.groupId}:{d.artifactId}:{d.version}:{d.classifier}:{d.type}" for d in needed]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    write_list()
