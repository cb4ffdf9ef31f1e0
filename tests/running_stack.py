"""A whole stack for tests, started and ended as a user does, in a folder and on ports of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from connectors.kafka.client import RequestClient
from connectors.registry import ConfluentRegistry
from infra.access import kafka_access
from infra.settings import Settings
from schemas.codec import Codec
from schemas.events import Final, InferenceRequested, Message, Parameters
from schemas.ids import uuid7
from tests.checkout import ROOT
from tests.docker_servers import DockerServers


class RunningStack:
    """Started by `up --detach`, ended by `down`. `environment` holds more HEADRACE_ settings."""

    def __init__(self, home: Path, cache: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.failpoints = home / "failpoints.txt"
        own = {"HEADRACE_HOME": str(home), "HEADRACE_CACHE": str(cache), "HEADRACE_FAILPOINTS": str(self.failpoints), **environment}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
        self.environment = {**kept, **own, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        fields = {k.removeprefix("HEADRACE_").lower(): v for k, v in own.items()}
        self._fields = fields
        self._docker = DockerServers(home) if os.environ.get("HEADRACE_TEST_STACK") == "docker" else None

    def start(self) -> None:
        """Bring a fresh stack up; its output is in the error if it does not come."""
        shutil.rmtree(self.home, ignore_errors=True)
        if self._docker is not None:
            servers = self._docker.start()
            self.environment |= servers
            self._fields |= {k.removeprefix("HEADRACE_").lower(): v for k, v in servers.items()}
        started = self.cli("up", "--detach", timeout_s=240)
        if started.returncode != 0:
            raise RuntimeError(f"the stack did not start:\n{started.stdout}\n{started.stderr}")

    def stop(self) -> None:
        self.cli("down", timeout_s=60)
        if self._docker is not None:
            self._docker.stop()

    def cli(self, *arguments: str, timeout_s: float = 60, input_text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the CLI to its end."""
        return subprocess.run(
            [sys.executable, "-m", "infra.cli.main", *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True,
            timeout=timeout_s, check=False, input=input_text,
        )  # fmt: skip

    @property
    def settings(self) -> Settings:
        """Read anew each time: ports may have changed."""
        return Settings(**self._fields)  # type: ignore[arg-type]  # pydantic converts them

    def client(self, user: str = "client") -> RequestClient:
        settings = self.settings
        return RequestClient(kafka_access(settings, user), Codec(ConfluentRegistry(settings.registry)), settings.partitions)

    def record(self, name: str) -> dict[str, Any]:
        """What stack.json says of an agent or a component."""
        stack = json.loads((self.home / "stack.json").read_text())
        return dict({**stack["components"], **stack["agents"]}[name])

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to an agent or component; the process id of an agent, or of a component that is a process here."""
        if self._docker is not None and name in ("kafka", "registry", "redis"):
            self._docker.signal(name, signal.Signals(number).name.removeprefix("SIG"))
            return 0
        pid = int(self.record(name)["pid"])
        os.kill(pid, number)
        return pid

    def resume(self, name: str) -> None:
        """Let an agent or component that SIGSTOP froze go on."""
        self.kill(name, signal.SIGCONT)

    @contextmanager
    def frozen(self, *names: str) -> Iterator[None]:
        """While agents or components stand still."""
        for name in names:
            self.kill(name, signal.SIGSTOP)
        try:
            yield
        finally:
            for name in names:
                self.resume(name)

    def ready(self, agent: str) -> bool:
        """Whether an agent's own process lives and says that it is ready."""
        record = self.record(agent)
        if not psutil.pid_exists(record["pid"]):
            return False
        return _says_ready(record["port"])

    @contextmanager
    def another(self, service: str, index: int, *, wait: bool = True) -> Iterator[None]:
        """One more process of a service, which joins its group now and leaves it by SIGTERM at the end."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "infra.service", service, "--index", str(index), "--port", str(port)]
        with (self.home / "logs" / f"{service}-{index}.log").open("ab") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=output, stderr=output)
        try:
            if wait:
                eventually(lambda: _says_ready(port), 60, f"{service}-{index} is ready")
            yield
        finally:
            process.terminate()
            process.wait(40)

    def restart_with(self, agent: str, failpoints: str) -> None:
        """Kill an agent so that its successor, started by the supervisor, has these failpoints; wait until that is ready."""
        shutil.rmtree(self.home / "failpoints", ignore_errors=True)
        self.failpoints.write_text(failpoints)
        killed = self.kill(agent)
        eventually(lambda: self.record(agent)["pid"] != killed and self.ready(agent), 60, f"{agent} is back")


def _says_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def eventually(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait for something that must come; how long it took is not judged."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.1)


def request(prompt: str, *, max_tokens: int = 4, deadline_s: float | None = None, **more: Any) -> InferenceRequested:
    """A request of the local tenant."""
    now = time.time_ns() // 1_000_000
    return InferenceRequested(
        **{
            "request_id": uuid7(), "tenant": "local", "model": "", "messages": (Message(role="user", content=prompt),),
            "parameters": Parameters(max_tokens=max_tokens), "requested_at": now,
            "deadline_at": None if deadline_s is None else now + int(deadline_s * 1000), **more,
        }
    )  # fmt: skip


def answers(client: RequestClient, within_s: float) -> dict[str, Final]:
    """Final events of everything that the client has asked, by request id."""
    return {told.request_id: told.final for told in client.listen(within_s) if told.final is not None}
