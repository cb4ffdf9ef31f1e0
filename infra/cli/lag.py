"""How far behind the agents' consumer groups are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.kafka_access import KafkaAccess
from streams.topics import DISPATCHER, INFERENCE, LEARNING

GROUPS = (INFERENCE, DISPATCHER, LEARNING)  # the others read by position and belong to no group
_CALL_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLag:
    """Records that a group has not acknowledged yet, in one topic. `members`: consumers in the group now."""

    group: str
    topic: str
    lag: int
    members: int


def group_lags(access: KafkaAccess) -> list[GroupLag]:
    """Lag of each agent group in each topic that it has committed to. Raises KafkaException."""
    client = AdminClient(access.confluent())
    members = _members(client)
    committed = {group: _committed(client, group) for group in GROUPS}
    places = [TopicPartition(p.topic, p.partition) for offsets in committed.values() for p in offsets]
    ends = {(p.topic, p.partition): f.result(_CALL_S).offset for p, f in _latest(client, places).items()}
    lags = []
    for group, offsets in committed.items():
        for topic in sorted({p.topic for p in offsets}):
            behind = (max(0, ends[(p.topic, p.partition)] - max(0, p.offset)) for p in offsets if p.topic == topic)
            lags.append(GroupLag(group=group, topic=topic, lag=sum(behind), members=members.get(group, 0)))
    return lags


def _members(client: AdminClient) -> dict[str, int]:
    found = client.describe_consumer_groups(list(GROUPS), request_timeout=_CALL_S)
    counts = {}
    for group, future in found.items():
        try:
            counts[group] = len(future.result(_CALL_S).members)
        except KafkaException:  # a group that never was
            counts[group] = 0
    return counts


def _committed(client: AdminClient, group: str) -> list[TopicPartition]:
    future = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=_CALL_S)[group]
    try:
        return [p for p in future.result(_CALL_S).topic_partitions if p.error is None]
    except KafkaException:  # as above
        return []


def _latest(client: AdminClient, places: list[TopicPartition]) -> dict[TopicPartition, Any]:
    return dict(client.list_offsets({p: OffsetSpec.latest() for p in places}, request_timeout=_CALL_S)) if places else {}
