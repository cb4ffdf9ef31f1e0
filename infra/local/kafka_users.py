"""SCRAM users of the local Kafka: whether the admin user is let in, and adding users after the first format."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from streams.errors import PoisonError, RetryableError

ADMIN = "admin"
_MECHANISM = "SCRAM-SHA-256"
_CALL_S = 5.0

# librdkafka writes to stderr where no logger is given; while a broker starts, refused connections are expected
_SILENT = logging.Logger("librdkafka", logging.CRITICAL)


class AdminRefused(PoisonError):
    """Kafka does not accept admin's password: restore the credentials.json that its data was made with, or delete `data/kafka`."""


class UsersNotWritten(RetryableError):
    """Kafka answered but did not store new users: look at its log, and start again."""


def admin_client(bootstrap: str, user: str, password: str, on_error: Callable[[Any], None] = lambda _: None) -> Any:
    """confluent-kafka's AdminClient for this user; `on_error` gets what librdkafka reports beside the calls, like a refused login."""
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - 0.1 s that a stack with its Kafka elsewhere does not need

    return AdminClient(
        {
            "bootstrap.servers": bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": _MECHANISM,
            "sasl.username": user,
            "sasl.password": password,
            "log_level": 2,
            "error_cb": on_error,
        },
        logger=_SILENT,
    )


def answers_admin(bootstrap: str, password: str) -> bool:
    """Whether the broker gives its metadata to admin. Raises AdminRefused when the password is wrong."""
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 - as above

    reported: list[Any] = []
    client = admin_client(bootstrap, ADMIN, password, reported.append)
    try:
        return bool(client.list_topics(timeout=_CALL_S).brokers)
    except KafkaException as error:  # a mere time-out, also where the login is refused
        client.poll(0)
        if any(report.code() == KafkaError._AUTHENTICATION for report in reported):
            remedy = "restore credentials.json, or delete data/kafka in the home and lose its events"
            raise AdminRefused("kafka_admin_refused", "Kafka refuses admin's password in credentials.json", remedy) from error
        return False


def upsert_users(bootstrap: str, admin_password: str, users: Mapping[str, str]) -> None:
    """Create these users or change their passwords. Raises UsersNotWritten."""
    from confluent_kafka import KafkaException  # noqa: PLC0415 - as above
    from confluent_kafka.admin import (  # noqa: PLC0415
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialUpsertion,
    )

    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
    changes = [UserScramCredentialUpsertion(name, info, password.encode()) for name, password in users.items()]
    client = admin_client(bootstrap, ADMIN, admin_password)  # kept in a name: its calls fail when it is collected
    try:
        for result in client.alter_user_scram_credentials(changes).values():
            result.result(_CALL_S)
    except KafkaException as error:
        raise UsersNotWritten("kafka_users_not_written", f"{', '.join(users)}: {error}", "see logs/kafka.log, then start again") from error


def digests(users: Mapping[str, str]) -> dict[str, str]:
    """What is remembered of the passwords that Kafka has. Plain SHA-256 does: they are 192 random bits."""
    return {name: hashlib.sha256(f"{name}\0{password}".encode()).hexdigest() for name, password in users.items()}
