"""Brings Kafka in line with the topic catalogue: topics, their settings, and the rights of each user."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from streams.errors import RetryableError
from streams.kafka_access import KafkaAccess
from streams.topics import OPERATOR, Topic

_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in Kafka that is not as the catalogue says. `kind`: topic, partitions, setting, grant or revoke."""

    kind: str
    name: str
    have: str
    want: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.have or 'nothing'} -> {self.want or 'nothing'}"


class TopicsNotReady(RetryableError):
    """Topics were made but have no leader yet. Wait a little, then try again; if it stays, look at Kafka's log."""


class TopicAdmin:
    """Compares and applies. `diff` changes nothing; `apply` can be run any number of times."""

    def __init__(self, access: KafkaAccess, topics: Sequence[Topic], replication: int) -> None:
        self._client = AdminClient(access.confluent())
        self._topics = topics
        self._replication = replication

    def diff(self) -> list[Difference]:
        """What apply would change."""
        metadata = self._client.list_topics(timeout=_TIMEOUT_S).topics
        out = []
        for topic in self._topics:
            if topic.name not in metadata:
                out.append(Difference("topic", topic.name, "", f"{topic.partitions} partitions"))
            elif (have := len(metadata[topic.name].partitions)) < topic.partitions:
                out.append(Difference("partitions", topic.name, str(have), str(topic.partitions)))
        out += self._setting_differences([t for t in self._topics if t.name in metadata])
        return out + self._grant_differences()

    def apply(self) -> list[Difference]:
        """Make it so, wait until each topic has its leaders, and return what was changed. Raises TopicsNotReady."""
        changes = self.diff()
        by_name = {t.name: t for t in self._topics}
        new = [self._new(by_name[c.name]) for c in changes if c.kind == "topic"]
        if new:
            _wait(self._client.create_topics(new))
        grown = [NewPartitions(c.name, by_name[c.name].partitions) for c in changes if c.kind == "partitions"]
        if grown:
            _wait(self._client.create_partitions(grown))
        settings = [self._setting(c) for c in changes if c.kind == "setting"]
        if settings:
            _wait(self._client.incremental_alter_configs(settings))
        have, want = self._grants(), self._wanted_grants()
        if want - have:
            _wait(self._client.create_acls(sorted(want - have, key=_acl_text)))
        if have - want:
            _wait(self._client.delete_acls([_exactly(acl) for acl in have - want]))
        self._wait_until_ready()
        return changes

    def _new(self, topic: Topic) -> NewTopic:
        return NewTopic(topic.name, topic.partitions, self._replication, config=topic.settings())

    @staticmethod
    def _setting(change: Difference) -> ConfigResource:
        topic, _, key = change.name.partition(" ")
        entry = ConfigEntry(key, change.want, incremental_operation=AlterConfigOpType.SET)
        return ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])

    def _setting_differences(self, topics: Sequence[Topic]) -> list[Difference]:
        if not topics:
            return []
        asked = [ConfigResource(ConfigResource.Type.TOPIC, t.name) for t in topics]
        have: dict[str, dict[str, Any]] = {r.name: f.result(_TIMEOUT_S) for r, f in self._client.describe_configs(asked).items()}
        out = []
        for topic in topics:
            for key, value in topic.settings().items():
                entry = have[topic.name].get(key)
                if entry is None or entry.value != value:
                    out.append(Difference("setting", f"{topic.name} {key}", "" if entry is None else str(entry.value), value))
        return out

    def _grant_differences(self) -> list[Difference]:
        have, want = self._grants(), self._wanted_grants()
        new = [Difference("grant", _acl_text(a), "", "allowed") for a in want - have]
        gone = [Difference("revoke", _acl_text(a), "allowed", "") for a in have - want]
        return sorted(new, key=str) + sorted(gone, key=str)

    def _grants(self) -> set[AclBinding]:
        """All present rights, whoever gave them: what the catalogue does not grant is taken away."""
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
        )
        return set(self._client.describe_acls(everything).result(_TIMEOUT_S))

    def _wanted_grants(self) -> set[AclBinding]:
        want = set()
        users: set[str] = set()
        for topic in self._topics:
            for user in topic.writers:
                want.add(_allow(user, ResourceType.TOPIC, topic.name, AclOperation.WRITE))
            for user in (*topic.readers, OPERATOR):
                want.add(_allow(user, ResourceType.TOPIC, topic.name, AclOperation.READ))
            users |= {*topic.writers, *topic.readers}
        # Its own name and what follows a dot: a bare prefix would open producer-acme-2's groups to producer-acme.
        want |= {_allow(user, ResourceType.GROUP, user, AclOperation.READ) for user in users}
        want |= {_allow(user, ResourceType.GROUP, f"{user}.", AclOperation.READ, ResourcePatternType.PREFIXED) for user in users}
        return want

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            metadata = self._client.list_topics(timeout=_TIMEOUT_S).topics
            led = all(t.name in metadata and _led(metadata[t.name], t.partitions) for t in self._topics)
            if led and self._grants() == self._wanted_grants():  # both take a moment to reach the broker
                return
            time.sleep(0.05)
        raise TopicsNotReady("topics_not_ready", f"topics have no leaders after {_TIMEOUT_S:.0f} s", "see: headrace logs kafka")


def _led(topic: Any, partitions: int) -> bool:
    return len(topic.partitions) >= partitions and all(p.leader >= 0 for p in topic.partitions.values())


def _allow(user: str, kind: Any, name: str, operation: Any, pattern: Any = ResourcePatternType.LITERAL) -> AclBinding:
    return AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)


def _exactly(acl: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type
    )


def _acl_text(acl: AclBinding) -> str:
    return f"{acl.principal} may {acl.operation.name.lower()} {acl.restype.name.lower()} {acl.name}"


def _wait(futures: dict[Any, Future[Any]] | Iterable[Future[Any]]) -> None:
    """Wait for all; what exists already is as good as made."""
    for future in futures.values() if isinstance(futures, dict) else futures:
        try:
            future.result(_TIMEOUT_S)
        except KafkaException as error:
            if "ALREADY_EXISTS" not in str(error.args[0].name()):
                raise
