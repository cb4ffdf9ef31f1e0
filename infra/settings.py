"""Every setting of Headrace in one place: from the environment (`HEADRACE_…`), or else from the running local stack."""

from __future__ import annotations

import json
import secrets
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

from streams.errors import RetryableError

# A tenant's name is part of topic and user names.
TenantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class StackNotRunning(RetryableError):
    """No address is known for a server: start the local stack with `./headrace up`, or set the server's HEADRACE_ variable."""

    def __init__(self, component: str, home: Path) -> None:
        super().__init__("stack_not_running", f"no address of {component}: no local stack is running in {home}", "start it with: ./headrace up")


class Settings(BaseSettings):
    """Each field can be set as `HEADRACE_<NAME>`. A URL that is set replaces the local component, which then isn't started."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True)

    home: Path = Field(Path(".headrace"), description="Folder of the local stack: data, logs, models, stack.json, credentials.json. Another folder is another, independent stack.")
    cache: Path = Field(Path(".headrace-cache"), description="Downloaded jars and models. Shared by all stacks; losing it costs a download.")
    data: Path = Field(Path("../shared/data"), description="Folder of the measured data sets. Without it benchmarks use a small generated set and say so.")

    kafka_bootstrap: str = Field("", description="host:port of a Kafka to use instead of the local one.")
    kafka_security: Literal["SASL_PLAINTEXT", "SASL_SSL"] = Field("SASL_PLAINTEXT", description="SASL_SSL wherever the network is not your own.")
    kafka_username: str = Field("", description="Overrides the SCRAM user that a service has by its name.")
    kafka_password: str = Field("", description="Password of kafka_username.")
    registry_url: str = Field("", description="Base URL of a Confluent-compatible schema registry to use instead of the local one.")
    redis_url: str = Field("", description="redis:// or rediss:// URL to use instead of the local Valkey.")
    milvus_url: str = Field("", description="http:// or https:// URL of a Milvus to use instead of the local Milvus Lite.")
    index: Literal["in-process", "milvus"] = Field("in-process", description="Where the vectors of known questions are. in-process: in each inference agent, rebuilt from the log at its start. milvus: shared, and `up` starts Milvus Lite.")
    with_milvus: bool = Field(False, description="Start Milvus Lite although no agent uses it.")

    tenants: tuple[TenantName, ...] = Field(("local",), description="Tenants that may send requests; each has its own reply topic and Kafka user.")
    partitions: int = Field(4, ge=1, description="Partitions of the request, reply and lifecycle topics. More spread wider and cost memory; it can only grow.")
    worker_slots: int = Field(8, ge=1, description="Partitions of the dispatch topic: the most deep-learning workers there can ever be.")
    replication: int = Field(1, ge=1, description="Replicas of each topic. 3 with min.insync.replicas 2 where there are three brokers.")

    model: str = Field("smollm2-135m-instruct", description="Model that answers where a request names none.")
    embedder: str = Field("all-minilm-l6-v2", description="Model of the vectors that find like questions. Another one starts semantic knowledge cold: vectors of two models don't compare.")
    embedder_precision: Literal["int8", "float"] = Field("int8", description="float is a little more exact, takes four times the memory and about twice the CPU. Changing it starts semantic knowledge cold, too.")
    verifier: str = Field("pair-verifier-1", min_length=1, description="Model that says whether two questions ask the same. After another one, what entries were observed at counts under its scores too: reopen scopes by hand, or change the embedder with it.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N. auto takes CUDA where there is one.")
    workers: int = Field(1, ge=0, description="Deep-learning agents that `up` starts (one per GPU).")
    batch_size: int = Field(4, ge=1, description="Requests that a deep-learning agent runs in one batch. More raises throughput and each one's latency.")
    torch_threads: int = Field(0, ge=0, description="CPU threads of each deep-learning agent; 0 shares half of the cores among them, since the other services need the rest.")
    token_group_ms: int = Field(20, ge=0, description="Tokens of one request are grouped over at most this long before they are published.")

    max_request_bytes: int = Field(262_144, description="A larger request record is rejected at admission.")
    max_tokens_limit: int = Field(4096, description="The most tokens a request may ask for.")
    default_max_tokens: int = Field(256, description="Tokens to generate where a request does not say.")
    default_deadline_s: float = Field(60.0, description="Deadline of a request that names none.")
    max_deadline_s: float = Field(600.0, description="A later deadline is cut to this; it bounds how far back state is rebuilt from the log.")
    semantic: Literal["on", "off"] = Field("on", description="off: only identical requests are answered as known, and nothing is checked.")
    semantic_error_bound: float = Field(0.02, gt=0, lt=0.5, description="The most wrong answers among the semantic ones, as a share. Less serves fewer; a scope that exceeds it is shut off.")
    semantic_check_share: float = Field(0.02, gt=0, le=1, description="Share of a trusted scope's semantic answers that the deep-learning service checks. Less costs less, and finds a change later.")
    known_max_temperature: float = Field(0.0, description="Answers sampled at a higher temperature are never learned or served as known.")

    heartbeat_s: float = Field(1.0, description="Interval of a worker's reports. Three missed ones are its death, so it bounds how fast work moves on.")
    session_timeout_s: float = Field(6.0, description="Consumer-group session: how long a dead agent keeps its partitions. Kafka's lower bound is 6 s.")
    watchdog_s: float = Field(15.0, description="An agent whose event loop stands still this long is restarted by the supervisor.")
    probes_host: str = Field("127.0.0.1", description="Address on which services serve /metrics, /ready and /live. In a container 0.0.0.0, so that Prometheus reaches it.")
    log_level: str = Field("INFO", description="Level of the services' logs.")
    failpoints: Path | None = Field(None, description="Only for fault tests: a file with `name=kill@N` lines, read when a service starts; it ends itself with SIGKILL when it reaches point `name` the N-th time.")

    @cached_property
    def stack(self) -> dict[str, Any]:
        """What `up` wrote about the running local stack, or {} where there is none."""
        path = self.home / "stack.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def bootstrap(self) -> str:
        """host:port of Kafka: the setting, or the local stack's."""
        return self.kafka_bootstrap or str(self._component("kafka")["bootstrap"])

    @property
    def registry(self) -> str:
        """Base URL of the registry's Confluent API."""
        return self.registry_url or str(self._component("registry")["url"])

    @property
    def redis(self) -> str:
        """URL of Redis or Valkey."""
        return self.redis_url or str(self._component("redis")["url"])

    @property
    def milvus(self) -> str:
        """URL of Milvus or Milvus Lite."""
        return self.milvus_url or str(self._component("milvus")["url"])

    def _component(self, name: str) -> dict[str, Any]:
        components = self.stack.get("components", {})
        if name not in components:
            raise StackNotRunning(name, self.home)
        return dict(components[name])

    def credentials(self) -> dict[str, str]:
        """Secrets of the local stack by user name, made at first use and kept in `credentials.json` (mode 0600).

        Also holds "digest-secret", the master key of the per-tenant text digests.
        """
        path = self.home / "credentials.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def ensure_credentials(self, users: tuple[str, ...]) -> dict[str, str]:
        """Make the missing secrets, keep the existing ones, return all."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.chmod(0o700)  # answers and logs lie there too
        known = self.credentials()
        missing = {user: secrets.token_urlsafe(24) for user in (*users, "digest-secret") if user not in known}
        if missing:
            path = self.home / "credentials.json"
            part = path.with_suffix(".part")
            part.touch(mode=0o600)
            part.write_text(json.dumps(known | missing, indent=1))
            part.replace(path)
        return known | missing
