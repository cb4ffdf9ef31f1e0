"""An agent of the local stack: one service process with a small HTTP server that says whether it is ready and alive."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

from infra.local.component import ProcessComponent
from infra.local.ports import HOST, Ports
from infra.local.process import Child, wait_ready
from infra.local.progress import Progress
from infra.settings import Settings

_START_LIMIT_S = 180.0  # torch's import and a model's load, on a slow disk and beside others
_HTTP_S = 2.0


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What to run: a unique name like "inference-0", and the command, to which `--port <port>` is added."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Agent(ProcessComponent):
    """Its port stays the same for all restarts, so that what scrapes its metrics finds it again."""

    def __init__(self, settings: Settings, ports: Ports, spec: AgentSpec) -> None:
        super().__init__(settings)
        self.name = self.title = spec.name
        self._ports = ports
        self._spec = spec
        self._last_live: float | None = None
        self._loop_age_s = 0.0

    def prepare(self, progress: Progress) -> None:  # noqa: ARG002 - the port's signature
        """Choose the port."""
        self.port = self._ports.choose(self.name)

    def start(self) -> None:
        """Spawn it, told which home it belongs to, wherever its working directory is."""
        self._last_live, self._loop_age_s = None, 0.0
        folders = {"HEADRACE_HOME": str(self.home), "HEADRACE_CACHE": str(self.settings.cache.absolute())}
        self.child = Child([*self._spec.argv, "--port", str(self.port)], self.log, self.home, {**folders, **self._spec.env})

    def ready(self) -> None:
        """Until GET /ready is 200."""
        assert self.child is not None
        wait_ready(self.child, self.title, lambda: self._get("/ready")[0] == 200, _START_LIMIT_S)

    def address(self) -> dict[str, Any]:
        """Base URL of its health and metrics."""
        return {"url": f"http://{HOST}:{self.port}"}

    def look(self) -> None:
        """Ask GET /live once, and remember the answer for `hung`. Takes up to 2 s; called from the watchdog's threads."""
        child = self.child
        status, body = self._get("/live")
        if child is not self.child:  # restarted meanwhile: the answer is the old process's
            return
        try:
            self._loop_age_s = float(json.loads(body)["loop_age_s"])
        except (ValueError, KeyError, TypeError):
            return
        if status:
            self._last_live = time.monotonic()

    def hung(self) -> str:
        """Why the watchdog should kill it: its loop stands still, or it says nothing. It has `_START_LIMIT_S` for its first answer."""
        limit = self.settings.watchdog_s
        if self._loop_age_s > limit:
            return f"its event loop has stood still for {self._loop_age_s:.1f} s"
        if self._last_live is None:
            never = self.child is not None and self.child.age_s() > _START_LIMIT_S
            return f"it never answered within {_START_LIMIT_S:.0f} s" if never else ""
        silent = time.monotonic() - self._last_live
        return f"it has not answered for {silent:.1f} s" if silent > limit else ""

    def _get(self, path: str) -> tuple[int, bytes]:
        """(status, body); (0, b"") when nothing answers."""
        connection = HTTPConnection(HOST, self.port, timeout=_HTTP_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException):
            return 0, b""
        finally:
            connection.close()
