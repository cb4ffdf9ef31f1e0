"""What a service shows of itself: probes and metrics over HTTP, and one span per hop that carries on the producer's trace."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from infra import probes as probes_module
from infra.probes import Probes
from streams.telemetry import Metrics, Tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
NOW = 1_700_000_000_000


@dataclass
class Service:
    """A service with probes on a free port; its clock and readiness are the test's."""

    port: int
    now_s: float = 1000.0
    ready: bool = False
    metrics: Metrics = field(init=False)
    probes: Probes = field(init=False)

    def get(self, path: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()

    def loop_age_s(self) -> float:
        return float(json.loads(self.get("/live")[2])["loop_age_s"])


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        made = Service(free.getsockname()[1])
    monkeypatch.setattr(probes_module, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    registry = CollectorRegistry()
    made.metrics = Metrics(registry)
    made.probes = Probes(registry, made.metrics, lambda: made.ready)
    made.probes.serve(made.port)
    yield made


def test_ready_follows_the_service(service: Service) -> None:
    """503 until it says so, then 200, and back."""
    answers = []
    for service.ready in (False, True, False):
        answers.append(service.get("/ready"))
    assert [status for status, _, _ in answers] == [503, 200, 503]
    assert [json.loads(body) for _, _, body in answers] == [{"ready": False}, {"ready": True}, {"ready": False}]
    assert {kind for _, kind, _ in answers} == {"application/json"}


def test_metrics_are_prometheus_text(service: Service) -> None:
    """What was counted, with its labels, and the loop's age."""
    service.metrics.requests.labels("exact").inc(3)
    service.metrics.request_seconds.labels("exact").observe(0.003)
    service.now_s += 2.5
    status, kind, body = service.get("/metrics")
    assert status == 200 and kind.startswith("text/plain")
    assert 'headrace_requests_total{outcome="exact"} 3.0' in body
    assert 'headrace_request_seconds_bucket{le="0.002",tier="exact"} 0.0' in body
    assert 'headrace_request_seconds_bucket{le="0.005",tier="exact"} 1.0' in body
    assert "headrace_loop_age_seconds 2.5" in body


def test_other_paths_are_not_found(service: Service) -> None:
    """The answer names those that there are."""
    status, _, body = service.get("/")
    assert status == 404
    assert all(path in body for path in ("/metrics", "/ready", "/live"))


def test_a_silent_client_holds_nobody_up(service: Service) -> None:
    """Somebody who connects and says nothing must not make a healthy service look dead."""
    with closing(socket.create_connection(("127.0.0.1", service.port))):
        assert service.get("/live")[0] == 200


async def test_a_hung_loop_is_seen_from_outside(service: Service) -> None:
    """While the loop stands still, /live answers all the same, and its age grows; a turn makes it young again."""
    turning = asyncio.create_task(service.probes.keep_turning())
    service.now_s += 5
    await asyncio.sleep(0)
    assert service.loop_age_s() == 0
    ages = []
    for service.now_s in (1006.0, 1008.5, 1030.0):  # no await in between: this is the loop, and it hangs
        ages.append(service.loop_age_s())
    assert ages == [1.0, 3.5, 25.0]
    turning.cancel()
    turning = asyncio.create_task(service.probes.keep_turning())
    await asyncio.sleep(0)
    assert service.loop_age_s() == 0
    turning.cancel()


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def test_a_hop_carries_on_the_trace(exporter: InMemorySpanExporter) -> None:
    """Its span is the child of what came, and the parent of what it causes: two hops make a chain of one trace."""
    tracing = Tracing("inference", exporter)
    first = tracing.hop("inference", PARENT, NOW, {"request_id": "r-1", "n": 2})
    second = tracing.hop("dispatcher", first, NOW + 5, {})
    tracing.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans["inference"].parent is not None and spans["dispatcher"].parent is not None
    assert f"{spans['inference'].parent.span_id:016x}" == SPAN
    assert spans["dispatcher"].parent.span_id == spans["inference"].context.span_id
    for told, name in ((first, "inference"), (second, "dispatcher")):
        assert told == f"00-{TRACE}-{spans[name].context.span_id:016x}-01"


def test_a_span_tells_what_and_from_when(exporter: InMemorySpanExporter) -> None:
    """It begins where it is told to, ends later, and names its service and facts."""
    tracing = Tracing("sweeper", exporter)
    tracing.hop("sweep", "", NOW, {"request_id": "r-1", "epoch": 2})
    tracing.close()
    (span,) = exporter.get_finished_spans()
    assert span.parent is None
    assert span.start_time == NOW * 1_000_000 and (span.end_time or 0) > span.start_time
    assert dict(span.attributes or {}) == {"request_id": "r-1", "epoch": 2}
    assert span.resource.attributes["service.name"] == "headrace-sweeper"


@pytest.mark.parametrize("broken", ["", "00-0-0-01", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "x"])
def test_a_broken_context_begins_a_new_trace(broken: str, exporter: InMemorySpanExporter) -> None:
    """One that is well-formed, and not the broken one."""
    tracing = Tracing("inference", exporter)
    told = tracing.hop("inference", broken, NOW, {})
    tracing.close()
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-[0-9a-f]{16}-0[13]", told)
    assert TRACE not in told
    assert exporter.get_finished_spans()[0].parent is None


def test_an_unsampled_trace_stays_unsampled(exporter: InMemorySpanExporter) -> None:
    """The producer decided: its trace goes on unrecorded."""
    tracing = Tracing("inference", exporter)
    told = tracing.hop("inference", f"00-{TRACE}-{SPAN}-00", NOW, {})
    tracing.close()
    assert told.startswith(f"00-{TRACE}-") and told.endswith("-00")
    assert not exporter.get_finished_spans()


@settings(deadline=None)
@given(st.text(max_size=60))
def test_off_means_passed_on_as_it_came(traceparent: str) -> None:
    """Without an exporter nothing is changed, and closing is harmless."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OTEL_TRACES_EXPORTER", raising=False)
        tracing = Tracing("inference")
    assert tracing.hop("inference", traceparent, NOW, {}) == traceparent
    tracing.close()


@pytest.mark.parametrize(("kind", "on"), [("", False), (" none ", False), ("console", True), ("otlp", True)])
def test_the_environment_switches_tracing(kind: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenTelemetry's own variable does; a span of its own in the context tells that it is on. Nothing is sent: it is not sampled."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", kind)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing, unsampled = Tracing("inference"), f"00-{TRACE}-{SPAN}-00"
    assert (tracing.hop("inference", unsampled, NOW, {}) != unsampled) == on
    tracing.close()


def test_an_unknown_exporter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names those that there are."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(ValueError, match="zipkin is not known here: use otlp, console or none"):
        Tracing("inference")
