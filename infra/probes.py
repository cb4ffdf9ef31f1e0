"""What a service answers over HTTP: /metrics for Prometheus, /ready and /live for a supervisor or Kubernetes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from streams.telemetry import Metrics

_TURN_S = 0.25


class Probes:
    """Serves from a thread of its own, so that a hung event loop can be seen from outside.

    /live answers {"loop_age_s": seconds since the loop last turned}; /ready answers 200 when `ready()` says so, else 503.
    """

    def __init__(self, registry: CollectorRegistry, metrics: Metrics, ready: Callable[[], bool]) -> None:
        self._metrics_app = make_wsgi_app(registry)
        self._ready = ready
        self._turned = time.monotonic()
        metrics.loop_age.set_function(self.loop_age_s)

    def loop_age_s(self) -> float:
        """Seconds since the event loop last turned."""
        return time.monotonic() - self._turned

    async def keep_turning(self) -> None:
        """Run on the service's event loop: its standing still is what /live shows."""
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(_TURN_S)

    def serve(self, port: int, host: str = "127.0.0.1") -> None:
        """Listen in a daemon thread."""
        server = make_server(host, port, self._answer, server_class=_Threaded, handler_class=_Quiet)
        threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            metrics: Iterable[bytes] = self._metrics_app(environ, start_response)
            return metrics
        if path == "/live":
            return _json(start_response, "200 OK", {"loop_age_s": round(self.loop_age_s(), 3)})
        if path == "/ready":
            ready = self._ready()
            return _json(start_response, "200 OK" if ready else "503 Service Unavailable", {"ready": ready})
        return _json(start_response, "404 Not Found", {"error": "there are /metrics, /ready and /live"})


class _Threaded(ThreadingMixIn, WSGIServer):
    """A thread each, so that a client that connects and says nothing holds nobody up."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 5  # seconds that a connection may say nothing

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        """Say nothing: probes come every two seconds."""


def _json(start_response: Any, status: str, body: dict[str, Any]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]
