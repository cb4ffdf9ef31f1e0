"""How commands reach the stack: settings, Kafka users, codec. What is away is told at once instead of after a client's time-out."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

from connectors.kafka.client import RequestClient
from connectors.registry import ConfluentRegistry
from infra import access
from infra.settings import Settings
from schemas.codec import Codec
from streams.errors import RetryableError
from streams.kafka_access import KafkaAccess
from streams.topics import CLIENT, RESPONSES, reply_topic

_CONNECT_S = 3.0


class ServerAway(RetryableError):
    """A server of the stack does not accept connections: start the stack, or look at the server's log."""

    def __init__(self, title: str, address: str, reason: str) -> None:
        remedy = "start the stack with: ./headrace up   (or see what is wrong with: ./headrace doctor)"
        super().__init__("server_away", f"{title} at {address} cannot be reached: {reason}", remedy)


class QuietAccess(KafkaAccess):
    """Access without librdkafka's own lines on stderr: a command says by itself what it could not do."""

    def confluent(self) -> dict[str, Any]:
        """As confluent-kafka wants it."""
        return {**super().confluent(), "log_level": 2}


def kafka_access(settings: Settings, user: str) -> KafkaAccess:
    """How to connect as this user. Raises StackNotRunning, NoCredentials, or ServerAway when nothing listens there."""
    found = access.kafka_access(settings, user)
    require_listening("Kafka", found.bootstrap.split(",")[0])
    return QuietAccess(found.bootstrap, found.security, found.username, found.password)


def codec(settings: Settings) -> Codec:
    """The codec with the registry behind it. Raises StackNotRunning or ServerAway."""
    parts = urlsplit(settings.registry)
    require_listening("the schema registry", f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}")
    return Codec(ConfluentRegistry(settings.registry))


def request_client(settings: Settings, tenant: str) -> RequestClient:
    """A client of the requests topic. A tenant's own producer user reads its tenant's replies, everybody else the common ones."""
    found = kafka_access(settings, CLIENT)
    replies = reply_topic(tenant) if found.username.startswith("producer-") else RESPONSES
    return RequestClient(found, codec(settings), settings.partitions, replies)


def require_listening(title: str, address: str) -> None:
    """Raises ServerAway unless host:port takes a connection."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ServerAway(title, address, str(error)) from error
