"""The schema registry behind the codec: Confluent's API, as Confluent, Apicurio, Karapace and Redpanda serve it."""

from __future__ import annotations

import httpx
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.codec import UnknownSchema, schema_json, subject
from schemas.compatibility import Breakage, breakages
from schemas.record import Record

COMPATIBILITY = "FULL_TRANSITIVE"
_ITS_ANSWER_IS_NO = {400, 404, 422}  # an id that garbage made up may not even be a valid one; anything else is worth another try


class ConfluentRegistry:
    """Adapter of `schemas.codec.Registry`. `url` is the base of the Confluent API (for Apicurio it ends in /apis/ccompat/v7)."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url
        self._client = SchemaRegistryClient({"url": url, "timeout": timeout_s, "max.retries": 2})

    def schema_by_id(self, schema_id: int) -> str:
        """Schema text of an id. Raises UnknownSchema, or OSError when the registry is away."""
        try:
            return str(self._client.get_schema(schema_id).schema_str)
        except Exception as error:
            raise _translated(error, f"schema id {schema_id}") from error

    def id_of(self, subject_name: str, schema: str) -> int:
        """Id of a registered schema. Raises UnknownSchema, or OSError when the registry is away."""
        try:
            return int(self._client.lookup_schema(subject_name, Schema(schema, "AVRO")).schema_id)
        except Exception as error:
            raise _translated(error, f"the local version of {subject_name}; register it with: headrace schemas register") from error

    def history(self, subject_name: str) -> list[str]:
        """All registered versions of a subject, oldest first; [] where there is none."""
        try:
            versions = self._client.get_versions(subject_name)
            return [str(self._client.get_version(subject_name, v).schema.schema_str) for v in versions]
        except SchemaRegistryError as error:
            if error.http_status_code == 404:
                return []
            raise

    def check(self, topic: str, record: type[Record]) -> list[Breakage]:
        """Why the local schema can't follow the registered versions; [] where it can."""
        return breakages(schema_json(record.schema_name()), self.history(subject(topic, record.schema_name())))

    def register(self, topic: str, record: type[Record]) -> int:
        """Register the local schema under its subject, guarded by FULL_TRANSITIVE. Registering the same again changes nothing."""
        name = subject(topic, record.schema_name())
        schema_id = self._client.register_schema(name, Schema(schema_json(record.schema_name()), "AVRO"))
        return int(schema_id)

    def require_compatibility(self) -> None:
        """Make FULL_TRANSITIVE the registry's rule, so that nobody's later version can break a reader."""
        self._client.set_compatibility(level=COMPATIBILITY)


def _translated(error: Exception, what: str) -> Exception:
    if isinstance(error, SchemaRegistryError) and error.http_status_code in _ITS_ANSWER_IS_NO:
        return UnknownSchema(f"the registry does not know {what}")
    if isinstance(error, httpx.HTTPError | SchemaRegistryError | OSError):
        return OSError(f"the schema registry does not answer: {error}")
    return error


