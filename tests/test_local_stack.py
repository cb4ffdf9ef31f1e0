"""The local stack for real: servers, agents, supervisor and `down`, killed in every way that a laptop kills them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local.agent import AgentSpec
from infra.local.down import down
from infra.local.kafka_users import admin_client
from infra.local.ports import is_free
from infra.local.progress import Silent
from infra.local.stack import Stack
from infra.local.state import StackAlreadyRunning, leftovers, read_state
from infra.settings import Settings

CACHE = Path(__file__).resolve().parent.parent / ".headrace-cache"

# An agent's health server; the file `<home>/hang` makes it report a loop that stands still.
FAKE_AGENT = """
import http.server, json, os, pathlib, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        age = 99.0 if (pathlib.Path(os.environ["HEADRACE_HOME"]) / "hang").exists() else 0.1
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps({"loop_age_s": age}).encode())
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""


def make_stack(home: Path, **changes: Any) -> Stack:
    """A whole stack with one fake agent."""
    settings = Settings(home=home, cache=CACHE, watchdog_s=3.0, **changes)
    words = settings.ensure_credentials(("admin", "alice"))
    users = {name: words[name] for name in ("admin", "alice")}
    return Stack(settings, users, [AgentSpec("fake-0", [sys.executable, "-c", FAKE_AGENT])], Silent())


def eventually(holds: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    """Poll, since other processes have no clock of ours to wait on."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


class Running:
    """A supervisor in a process of its own, as `./headrace up` is."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = Settings(home=home, cache=CACHE)
        project = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen([sys.executable, "-m", "tests.test_local_stack", str(home)], stdout=subprocess.PIPE, cwd=project)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n"

    def record(self, group: str, name: str) -> dict[str, Any]:
        return dict(read_state(self.home)[group][name])

    def admin(self, user: str = "admin") -> Any:
        return admin_client(self.record("components", "kafka")["bootstrap"], user, self.settings.credentials()[user])

    def replaced(self, group: str, name: str, old: dict[str, Any]) -> None:
        """Wait until another process serves it on the same port."""
        eventually(lambda: self.record(group, name)["pid"] != old["pid"], f"{name} is restarted")
        eventually(lambda: not is_free(old["port"]), f"{name} listens again")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    stack = Running(tmp_path_factory.mktemp("stack"))
    yield stack
    down(stack.settings)
    stack.process.kill()
    stack.process.wait()


def produce(stack: Running, topic: str, count: int) -> None:
    from confluent_kafka import Producer
    from confluent_kafka.admin import NewTopic

    admin = stack.admin()
    for created in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        created.result(10)
    producer = Producer(client_conf(stack))
    for number in range(count):
        producer.produce(topic, str(number).encode())
    assert producer.flush(20) == 0


def client_conf(stack: Running) -> dict[str, Any]:
    password = stack.settings.credentials()["admin"]
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": "admin", "sasl.password": password}
    return {"bootstrap.servers": stack.record("components", "kafka")["bootstrap"], **login}


def count_records(stack: Running, topic: str) -> int:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({**client_conf(stack), "group.id": "count"})
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)
    consumer.close()
    return int(high - low)


@pytest.mark.stack
def test_the_three_servers_answer_on_the_loopback_interface_alone(running: Running) -> None:
    """Addresses come from stack.json, as every client of ours gets them."""
    assert running.admin().list_topics(timeout=10).brokers
    registry = HTTPConnection("127.0.0.1", running.record("components", "registry")["port"], timeout=10)
    registry.request("GET", "/apis/ccompat/v7/subjects")
    assert registry.getresponse().status == 200
    with socket.create_connection(("127.0.0.1", running.record("components", "redis")["port"])) as redis:
        redis.sendall(b"PING\r\n")
        assert redis.recv(16) == b"+PONG\r\n"
    for record in read_state(running.home)["components"].values():
        listening = [c.laddr.ip for c in psutil.Process(record["pid"]).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


@pytest.mark.stack
@pytest.mark.parametrize(
    "login",
    [
        {"security.protocol": "PLAINTEXT"},
        {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": "admin", "sasl.password": "guess"},
        {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "admin", "sasl.password": "guess"},
    ],
    ids=["anonymous", "scram", "plain"],
)
@pytest.mark.parametrize("listener", ["kafka", "kafka-controller"])
def test_a_client_without_the_password_gets_nothing(running: Running, listener: str, login: dict[str, str]) -> None:
    """Neither the client listener nor the controller's answers it; both do listen."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    port = json.loads((running.home / "data" / "ports.json").read_text())[listener]
    assert not is_free(port)
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0, **login}).list_topics(timeout=1.5)


@pytest.mark.stack
def test_a_known_user_without_rights_sees_no_topic(running: Running) -> None:
    """allow.everyone.if.no.acl.found is off: a login alone gives nothing."""
    produce(running, "hidden", 1)
    assert running.admin("alice").list_topics(timeout=10).topics == {}


@pytest.mark.stack
def test_secrets_are_readable_by_their_owner_alone(running: Running) -> None:
    """And no argument file of the first format remains."""
    folder = running.home / "data" / "kafka"
    assert not (folder / "format.arguments").exists()
    for path in (folder / "server.properties", folder / "users.json", running.home / "credentials.json"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.stack
def test_records_survive_the_brokers_sigkill(running: Running) -> None:
    """The supervisor starts it again on the same ports with the same log."""
    produce(running, "survives", 500)
    old = running.record("components", "kafka")
    os.kill(old["pid"], signal.SIGKILL)
    running.replaced("components", "kafka", old)
    assert count_records(running, "survives") == 500


@pytest.mark.stack
@pytest.mark.parametrize("fault", ["killed", "loop stands still", "does not answer"])
def test_the_supervisor_replaces_an_agent(running: Running, fault: str) -> None:
    """Dead, hung by its own account, or silent: killed where needed, and started again on the same port."""
    old = running.record("agents", "fake-0")
    hang = running.home / "hang"
    time.sleep(2.5 if fault == "does not answer" else 0)  # the watchdog must have seen it alive, or it would be given its start's time
    if fault == "loop stands still":
        hang.touch()
    else:
        os.kill(old["pid"], signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    eventually(lambda: not psutil.pid_exists(old["pid"]), "the old one is gone")
    hang.unlink(missing_ok=True)
    running.replaced("agents", "fake-0", old)
    assert running.record("agents", "fake-0")["port"] == old["port"]


@pytest.mark.stack
def test_a_second_up_in_the_same_home_is_refused(running: Running) -> None:
    """It names `down` as the remedy, and harms nothing."""
    second = make_stack(running.home)
    with pytest.raises(StackAlreadyRunning) as refused:
        second.up()
    second.stop()
    assert "headrace down" in refused.value.remedy
    assert running.admin().list_topics(timeout=10).brokers


@pytest.mark.stack
def test_nothing_is_left_after_the_supervisors_sigkill_and_the_data_serves_on_other_ports(running: Running) -> None:
    """Children end with it; `down` sweeps; the next start finds its ports taken, chooses others, and still has every record."""
    produce(running, "moves", 100)
    old = read_state(running.home)["components"]
    running.process.kill()
    running.process.wait()
    if sys.platform == "linux":
        eventually(lambda: not leftovers(running.home), "the kernel's signal ends the children")
    down(running.settings)
    assert leftovers(running.home) == []
    assert read_state(running.home) == {}
    assert down(running.settings).nothing_ran

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", old["kafka"]["port"]))
        taken.listen()
        stack = make_stack(running.home)
        try:
            stack.up()
            assert running.record("components", "kafka")["port"] != old["kafka"]["port"]
            assert running.record("components", "registry")["port"] == old["registry"]["port"]
            assert count_records(running, "moves") == 100
        finally:
            stack.stop()
    assert leftovers(running.home) == []


if __name__ == "__main__":
    make_stack(Path(sys.argv[1])).run(on_up=lambda: print("up", flush=True))  # noqa: T201 - the fixture reads it
