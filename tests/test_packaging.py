"""What leaves the checkout: the wheel, the lock, and the files for containers, checked as far as it goes without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.access import kafka_users
from infra.local.artifacts import PINNED
from infra.settings import Settings
from streams.topics import SERVICES
from tests.checkout import ROOT, files

COMPOSE = ROOT / "docker-compose.yml"
PROFILES = ("cpu", "gpu", "stores")
# As little of our environment as possible, so that what is tested is what was installed.
BARE = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves folders beside the sources, and packs what it finds in them."""
    source = tmp_path_factory.mktemp("source")
    for path in files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist"), str(source))
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_wheel_holds_code_and_data_only(wheel: Path) -> None:
    """Schemas and the lists of artifacts and models are inside; tests, credentials and logs are not."""
    names = zipfile.ZipFile(wheel).namelist()
    wanted = [str(path) for path in files() if path.parts[0] in ("schemas", "infra") and path.suffix in (".avsc", ".json")]
    assert len(wanted) > 20
    assert set(wanted) <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    packed = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert packed == {"schemas", "streams", "agents", "connectors", "infra", "benchmarks"}


def test_wheel_installs_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """`headrace --help` works from another folder, and what it imports comes from the wheel. Dependencies are lent, not fetched anew."""
    call(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = tmp_path / "venv" / "bin" / "python"
    call(str(python), "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel))
    own = Path(call(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "lent.pth").write_text("\n".join(sorted(lent)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "ask" in call(str(python.with_name("headrace")), "--help", cwd=elsewhere)
    question = "import schemas.codec as c, infra; c.schema_json('headrace.InferenceRequested'); print(c.__file__, infra.__file__)"
    assert all(Path(name).is_relative_to(own) for name in call(str(python), "-c", question, cwd=elsewhere).split())


def test_lock_has_every_direct_dependency_with_hashes() -> None:
    """pyproject.toml and requirements.lock agree; CONTRIBUTING.md has the command that brings the lock up to date."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned: dict[str, str] = {}
    for block in re.findall(r"^[A-Za-z0-9].*\n(?:[ \t].*\n)*", (ROOT / "requirements.lock").read_text(), re.MULTILINE):
        found = re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", block)
        assert found is not None, f"not pinned: {block[:80]}"
        assert "--hash=sha256:" in block, f"without a hash: {block[:80]}"
        pinned[canonicalize_name(found[1])] = found[2]
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        wanted = Requirement(text)
        version = pinned.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is not in the lock"
        assert version in wanted.specifier, f"{wanted.name}: the lock has {version}, pyproject.toml wants {wanted.specifier}"


def test_compose_file_is_valid(tmp_path: Path) -> None:
    """Compose itself reads the file with all profiles, and asks for no variable that .env.example does not name."""
    command = compose_command()
    passwords = re.sub(r"(?m)^(\w*PASSWORD\w*)=$", r"\1=secret", (ROOT / ".env.example").read_text())
    assert passwords.count("=secret") > 10
    (tmp_path / ".env").write_text(passwords)
    profiles = [word for profile in PROFILES for word in ("--profile", profile)]
    done = subprocess.run(
        [*command, "--env-file", str(tmp_path / ".env"), "-f", str(COMPOSE), *profiles, "config", "--quiet"],
        env=BARE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not re.search(r"variable is not set|warn", done.stderr, re.IGNORECASE), done.stderr


def test_compose_runs_every_service_as_its_own_user() -> None:
    """Each agent has its own Kafka user and password, workers have slots of their own, and Kafka makes exactly our users."""
    services = composed()["services"]
    agents = {name: s for name, s in services.items() if "infra.service" in s.get("command", [])}
    assert {s["command"][3] for s in agents.values()} == set(SERVICES)
    for name, agent in agents.items():
        user = agent["command"][3]
        assert agent["environment"]["HEADRACE_KAFKA_USERNAME"] == user, name
        assert agent["environment"]["HEADRACE_KAFKA_PASSWORD"] == f"${{KAFKA_PASSWORD_{user.upper().replace('-', '_')}:?}}", name
    slots = [a["command"][a["command"].index("--index") + 1] for a in agents.values() if "--index" in a["command"]]
    assert len(slots) == len(set(slots)) == 2
    assert services["kafka"]["environment"]["KAFKA_USERS"].split() == list(kafka_users(Settings()))


def test_compose_keeps_to_itself_and_to_our_versions() -> None:
    """Ports are for this machine only, images are pinned, servers can say that they are healthy, and settings exist."""
    services = composed()["services"]
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert re.search(r":v?(RELEASE\.)?\d[\w.-]*\d", service["image"]), name
        assert "build" in service or "test" in service["healthcheck"], name
        ours = {v for v in service.get("environment", {}) if v.startswith("HEADRACE_")}
        assert ours <= {f"HEADRACE_{field.upper()}" for field in Settings.model_fields}, name
    local = {program: coordinates[0].split(":")[2] for program, coordinates in PINNED.items()}
    assert services["kafka"]["image"] == f"apache/kafka:{local['kafka']}"
    assert services["registry"]["image"] == f"apicurio/apicurio-registry:{local['registry']}"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert services["inference"]["image"] == f"headrace:{version}"


def test_dockerfile_passes_its_linter() -> None:
    """hadolint has nothing to say."""
    hadolint = tool("hadolint", "it comes with the development dependencies")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_image_is_built_from_what_its_context_has() -> None:
    """Each file that the Dockerfile copies exists, and .dockerignore lets it through."""
    copied = [
        name
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for name in line.split()[1:-1]
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("script", [".ci/run", "infra/docker/kafka.sh"])
def test_scripts_parse_and_can_be_run(script: str) -> None:
    """bash reads them, and they may be executed."""
    call("bash", "-n", str(ROOT / script))
    assert os.access(ROOT / script, os.X_OK)


def composed() -> dict[str, Any]:
    """docker-compose.yml with its anchors resolved and its variables as they stand."""
    return dict(yaml.safe_load(COMPOSE.read_text()))


def compose_command() -> list[str]:
    """Compose as the docker plugin, or else as a program of its own. Neither needs an engine to read a file."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    return [tool("docker-compose", "Debian and Ubuntu: apt-get install docker-compose")]


def tool(name: str, remedy: str) -> str:
    """Path of a program, beside this Python or on PATH. Without it the test is skipped, or in CI failed."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not here: {remedy}")
    return found


def call(*command: str, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, env=BARE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
