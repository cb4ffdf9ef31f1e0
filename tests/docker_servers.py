"""The servers of docker-compose.yml for the test stack (HEADRACE_TEST_STACK=docker), by Testcontainers. Needs a Docker engine."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from pathlib import Path

from testcontainers.compose import DockerCompose

from tests.checkout import ROOT

_SERVICES = {"kafka": "kafka", "registry": "registry", "redis": "valkey"}  # our component names, and compose's
_USER = re.compile(r"^KAFKA_PASSWORD_(\w+)=(\S+)$", re.MULTILINE)


class DockerServers:
    """Fresh containers and volumes for each start; the agents stay processes on this machine."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._env = home / "compose.env"

    def start(self) -> dict[str, str]:
        """Bring them up, and return the settings by which the agents reach them. The credentials are in the home then."""
        self._home.mkdir(parents=True, exist_ok=True)
        empty = re.compile(r"^(\w*PASSWORD\w*)=$", re.MULTILINE)
        filled = empty.sub(lambda m: f"{m[1]}={secrets.token_hex(16)}", (ROOT / ".env.example").read_text())
        self._env.write_text(filled)
        words = {user.lower().replace("_", "-"): word for user, word in _USER.findall(filled)}
        (self._home / "credentials.json").write_text(json.dumps({**words, "digest-secret": secrets.token_hex(16)}))
        self._compose = DockerCompose(ROOT, services=list(_SERVICES.values()), env_file=str(self._env), wait=True)
        self._compose.start()
        redis_password = re.search(r"^VALKEY_PASSWORD=(\S+)$", filled, re.MULTILINE)
        assert redis_password is not None
        return {
            "HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:9092",
            "HEADRACE_REGISTRY_URL": "http://127.0.0.1:8081/apis/ccompat/v7",
            "HEADRACE_REDIS_URL": f"redis://:{redis_password[1]}@127.0.0.1:6379/0",
        }

    def signal(self, component: str, name: str) -> None:
        """Send a signal such as KILL or STOP to a server; a killed one is started again, as the supervisor would."""
        service = _SERVICES[component]
        command = ["docker", "compose", "--env-file", str(self._env)]
        subprocess.run([*command, "kill", "--signal", name, service], cwd=ROOT, check=True)
        if name == "KILL":
            subprocess.run([*command, "start", service], cwd=ROOT, check=True)

    def stop(self) -> None:
        self._compose.stop()
