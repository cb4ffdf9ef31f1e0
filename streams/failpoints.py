"""Points at which a fault test ends the process with SIGKILL, as TiKV's failpoints do. Off, they cost one dictionary look-up."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

_SPEC = re.compile(r"(?P<name>[\w.-]+)=kill@(?P<count>\d+)")


class Failpoints:
    """`spec` has lines "name=kill@N". Each point kills once: a mark in `folder` outlives the process, so that its successor goes on."""

    def __init__(self, spec: str, folder: Path) -> None:
        self._left: dict[str, int] = {}
        self._folder = folder
        for part in filter(None, map(str.strip, spec.splitlines())):
            match = _SPEC.fullmatch(part)
            if match is None:
                raise ValueError(f"failpoint {part!r} is not of the form name=kill@N")
            if not self._mark(match["name"]).exists():
                self._left[match["name"]] = int(match["count"])

    def reach(self, name: str) -> None:
        """Count one passage of the point, and die if it is the one asked for."""
        left = self._left.get(name)
        if left is None:
            return
        if left > 1:
            self._left[name] = left - 1
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mark(name).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def _mark(self, name: str) -> Path:
        return self._folder / f"failpoint-{name}"
