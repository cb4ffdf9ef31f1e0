"""How a service or a person reaches Kafka, in the words of each client library."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """How to reach Kafka: `bootstrap` is host:port, `security` SASL_PLAINTEXT or SASL_SSL; SCRAM-SHA-256 always."""

    bootstrap: str
    security: str
    username: str
    password: str

    def confluent(self) -> dict[str, Any]:
        """As confluent-kafka wants it."""
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.security,
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": self.username,
            "sasl.password": self.password,
            "reconnect.backoff.max.ms": 1000,  # the default of 10 s would be most of a recovery
        }

    def aiokafka(self) -> dict[str, Any]:
        """As aiokafka wants it."""
        return {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": self.security,
            "sasl_mechanism": "SCRAM-SHA-256",
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
            "ssl_context": self.ssl_context(),
        }

    def ssl_context(self) -> ssl.SSLContext | None:
        """For the clients in Python; librdkafka makes its own."""
        return ssl.create_default_context() if self.security == "SASL_SSL" else None
