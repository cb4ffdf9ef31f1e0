"""What follows from the settings: who connects to Kafka as whom, the topic catalogue, the limits of admission; and applying them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from connectors.kafka.admin import Difference, TopicAdmin
from connectors.registry import ConfluentRegistry
from infra import models
from infra.settings import Settings
from schemas.codec import subject
from streams.admission import AdmissionLimits
from streams.errors import PoisonError
from streams.kafka_access import KafkaAccess
from streams.routing import EntryIds
from streams.topics import Topic, catalogue, users

ADMIN = "admin"


class NoCredentials(PoisonError):
    """No password is known for a Kafka user: start the local stack once, or set HEADRACE_KAFKA_USERNAME and HEADRACE_KAFKA_PASSWORD."""


class BreakingSchema(PoisonError):
    """A schema here can't follow its registered versions: undo the change as the remedy says, or make a new event."""


def kafka_access(settings: Settings, user: str) -> KafkaAccess:
    """How a service or person connects: as the user of that name, unless the settings give another. Raises NoCredentials."""
    if settings.kafka_username:
        return KafkaAccess(settings.bootstrap, settings.kafka_security, settings.kafka_username, settings.kafka_password)
    password = settings.credentials().get(user)
    if password is None:
        raise NoCredentials(
            "no_credentials", f"no password of Kafka user {user!r} in {settings.home}/credentials.json",
            "start the local stack once (./headrace up), or set HEADRACE_KAFKA_USERNAME and HEADRACE_KAFKA_PASSWORD",
        )  # fmt: skip
    return KafkaAccess(settings.bootstrap, settings.kafka_security, user, password)


def topic_catalogue(settings: Settings) -> tuple[Topic, ...]:
    """The topics of this installation."""
    return catalogue(settings.tenants, settings.partitions, settings.worker_slots)


def kafka_users(settings: Settings) -> tuple[str, ...]:
    """All Kafka users of this installation, `admin` first."""
    return (ADMIN, *users(settings.tenants))


def admission_limits(settings: Settings) -> AdmissionLimits:
    """What is let in."""
    return AdmissionLimits(
        models=frozenset({settings.model}), default_model=settings.model, tenants=frozenset(settings.tenants),
        partitions=settings.partitions, max_request_bytes=settings.max_request_bytes, max_tokens_limit=settings.max_tokens_limit,
        default_max_tokens=settings.default_max_tokens, default_deadline_ms=int(settings.default_deadline_s * 1000),
        max_deadline_ms=int(settings.max_deadline_s * 1000), known_max_temperature=settings.known_max_temperature,
    )  # fmt: skip


def entry_ids(settings: Settings, versions: Mapping[str, str] | None = None) -> EntryIds:
    """Keyed ids of knowledge. `versions`: of small models, beside the language model's own."""
    known = {settings.model: models.version(settings, settings.model), **(versions or {})}
    return EntryIds(settings.credentials()["digest-secret"], known)


def topic_admin(settings: Settings) -> TopicAdmin:
    """Compares and applies the catalogue."""
    return TopicAdmin(kafka_access(settings, ADMIN), topic_catalogue(settings), settings.replication)


def apply_topics(settings: Settings) -> list[Difference]:
    """Bring topics and rights in line; what was changed."""
    return topic_admin(settings).apply()


def check_schemas(settings: Settings) -> dict[str, list[str]]:
    """Breaking changes by subject; {} where every schema may be registered."""
    registry = ConfluentRegistry(settings.registry)
    carried = [(topic, event) for topic in topic_catalogue(settings) for event in topic.events]
    found = {subject(t.name, e.schema_name()): [str(b) for b in registry.check(t.name, e)] for t, e in carried}
    return {name: breakages for name, breakages in found.items() if breakages}


def register_schemas(settings: Settings, report: Callable[[str, int], None] = lambda _subject, _id: None) -> int:
    """Register every schema of the catalogue; how many subjects there are. Raises BreakingSchema before any is registered."""
    breaking = check_schemas(settings)
    if breaking:
        text = "; ".join(f"{name}: {reasons[0]}" for name, reasons in breaking.items())
        raise BreakingSchema("breaking_schema", text, "see: headrace schemas check")
    registry = ConfluentRegistry(settings.registry)
    registry.require_compatibility()
    count = 0
    for topic in topic_catalogue(settings):
        for event in topic.events:
            report(subject(topic.name, event.schema_name()), registry.register(topic.name, event))
            count += 1
    return count
