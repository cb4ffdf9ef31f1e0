"""The checkout that the tests run in: its root, and its files without what is generated."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("schemas", "streams", "agents", "connectors", "infra", "benchmarks", "tests", "docs", ".ci")
_NOT_TEXT = {".png", ".gguf", ".pyc", ".so"}


@cache
def files() -> tuple[Path, ...]:
    """All text files relative to ROOT: what git tracks, and what is new and not ignored. In a copy without git: the known folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) if (ROOT / ".git").exists() else None
    if listed is not None and listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    return tuple(sorted(path.relative_to(ROOT) for path in found if path.is_file() and path.suffix not in _NOT_TEXT))
