"""Checks of `doctor` that ask the running servers: Kafka, registry, Redis, agents, lag, dead letters, clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from infra import access
from infra.access import ADMIN
from infra.cli import connecting
from infra.cli.checks import Check, Finding, ok, wrong
from infra.settings import Settings
from streams.kafka_access import KafkaAccess
from streams.topics import CLIENT, DEAD_LETTERS, OPERATOR, SERVICES

_LAG_LIMIT = 1000
_SKEW_LIMIT_MS = 1000
_RECENT_S = 3600
_CALL_S = 10.0


def server_checks(settings: Settings) -> list[Check]:
    """In the order of what depends on what."""
    return [
        Check("Kafka", lambda: _kafka(settings)),
        Check("Kafka users", lambda: _users(settings)),
        Check("clock", lambda: _clock(settings)),
        Check("topics", lambda: _topics(settings)),
        Check("registry", lambda: _registry(settings)),
        Check("Redis", lambda: _redis(settings)),
        Check("agents", lambda: _agents(settings)),
        Check("lag", lambda: _lag(settings)),
        Check("dead letters", lambda: _dead_letters(settings)),
    ]


def _kafka(settings: Settings) -> Finding:
    found = connecting.kafka_access(settings, ADMIN)
    brokers = len(_admin(found).list_topics(timeout=_CALL_S).brokers)
    return ok(f"{found.bootstrap}, {brokers} broker{'' if brokers == 1 else 's'}")


def _users(settings: Settings) -> Finding:
    """Each user signs in by itself: a password that differs from Kafka's is the usual end of a copied credentials.json."""
    from confluent_kafka import KafkaException

    wanted = (settings.kafka_username,) if settings.kafka_username else (*SERVICES, CLIENT, OPERATOR)
    refused = []
    for user in wanted:
        try:
            _admin(connecting.kafka_access(settings, user)).list_topics(timeout=_CALL_S)
        except KafkaException:
            refused.append(user)
    if refused:
        remedy = "credentials.json is not the one that Kafka's data was made with: restore it, then up again"
        return wrong(f"Kafka refuses {', '.join(refused)}", remedy)
    return ok(f"{len(wanted)} sign in")


def _clock(settings: Settings) -> Finding:
    """Deadlines and traces compare times of several machines. Kafka tells its own time in an append-time record's stamp; none is
    written here, so the newest heartbeat of a worker stands for it."""
    from infra.cli.log_window import LogReader
    from streams.topics import DL_WORKERS

    with LogReader(connecting.kafka_access(settings, OPERATOR)) as log:
        records = log.read(log.last_windows(DL_WORKERS, 1), lambda _: True)
    if not records:
        return ok("nothing to compare with: no worker has reported yet")
    ahead = max(r.timestamp_ms for r in records) - time.time_ns() // 1_000_000
    if ahead > _SKEW_LIMIT_MS:
        return wrong(f"a worker's clock is {ahead} ms ahead of this machine's", "synchronise the clocks (NTP): deadlines need it")
    return ok(f"the newest heartbeat is {-ahead} ms old")


def _topics(settings: Settings) -> Finding:
    connecting.kafka_access(settings, ADMIN)
    differences = access.topic_admin(settings).diff()
    if not differences:
        return ok(f"{len(access.topic_catalogue(settings))} as the catalogue says")
    return wrong(f"{len(differences)} differences, the first: {differences[0]}", "./headrace topics diff, then ./headrace topics apply")


def _registry(settings: Settings) -> Finding:
    codec = connecting.codec(settings)
    count = 0
    for topic in access.topic_catalogue(settings):
        codec.prepare(topic.name, *topic.events)
        count += len(topic.events)
    return ok(f"{settings.registry}, {count} schemas registered")


def _redis(settings: Settings) -> Finding:
    import redis

    address = urlsplit(settings.redis)
    connecting.require_listening("Redis", f"{address.hostname}:{address.port or 6379}")
    with redis.Redis.from_url(settings.redis, socket_timeout=_CALL_S) as client:
        facts: dict[str, Any] = dict(client.info("memory"))
    return ok(f"{address.hostname}:{address.port}, {facts['used_memory'] / 1e6:.1f} MB used")


def _agents(settings: Settings) -> Finding:
    from infra.cli.processes import process_states

    agents = [s for s in process_states(settings) if s.kind == "agent"]
    if not agents:
        return ok("none here; agents elsewhere are seen by their lag")
    sick = [s.name for s in agents if not s.ready]
    if sick:
        return wrong(f"not ready: {', '.join(sick)}", f"./headrace logs {sick[0]}")
    return ok(f"{len(agents)} ready")


def _lag(settings: Settings) -> Finding:
    from infra.cli.lag import GROUPS, group_lags

    lags = group_lags(connecting.kafka_access(settings, ADMIN))
    without = [group for group in GROUPS if not any(x.group == group and x.members for x in lags)]
    if without:
        return wrong(f"nobody is in group {', '.join(without)}, so its records wait", "./headrace status, then ./headrace up")
    worst = max(lags, key=lambda x: x.lag)
    if worst.lag > _LAG_LIMIT:
        return wrong(f"{worst.group} is {worst.lag} records behind in {worst.topic}", f"./headrace logs {worst.group}-0; start more of it")
    return ok(f"at most {worst.lag}, of {worst.group} in {worst.topic}")


def _dead_letters(settings: Settings) -> Finding:
    from infra.cli.log_window import LogReader, Window

    since = (time.time_ns() // 1_000_000) - _RECENT_S * 1000
    with LogReader(connecting.kafka_access(settings, OPERATOR)) as log:
        windows = [Window(topic=DEAD_LETTERS, partition=p, since_ms=since) for p in range(log.partitions(DEAD_LETTERS))]
        recent = len(log.read(windows, _any_record, most=1001))
    if recent:
        return wrong(f"{'over 1000' if recent > 1000 else recent} in the last hour", "./headrace dead-letters list --since 1h")
    return ok("none in the last hour")


def _any_record(_message: object) -> bool:
    return True


def _admin(found: KafkaAccess) -> Any:
    from confluent_kafka.admin import AdminClient

    quiet: Callable[..., None] = lambda *_: None  # noqa: E731  # a refused password is told by the exception
    return AdminClient({**found.confluent(), "error_cb": quiet})
