"""The house's own rules: lint, types, which folder may import which, a docstring at the top, and nothing of anybody's machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.topics import Topic, catalogue
from tests.checkout import ROOT, files

# DESIGN.md's table of folders. What is not named here (tests, benchmarks) may import everything and is imported by nobody.
MAY_IMPORT = {
    "schemas": {"schemas"},
    "streams": {"streams", "schemas"},
    "agents": {"agents", "streams", "schemas"},
    "connectors": {"connectors", "streams", "schemas"},
    "infra": {"infra", "connectors", "agents", "streams", "schemas"},
}
OURS = {*MAY_IMPORT, "benchmarks", "tests"}

# Joined from parts, so that this file does not name what it forbids.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"), ("pythonhosted", "org"), ("maven", "org"), ("maven", "apache", "org"), ("npmjs", "org"), ("crates", "io"),
        ("proxy", "golang", "org"), ("deb", "debian", "org"), ("pytorch", "org/whl"), ("docker", "io"), ("quay", "io"), ("ghcr", "io"),
    )
]  # fmt: skip
HOMES = ["/" + folder + "/" for folder in ("work", "farm", "root", "home", "Users")]


def python_files() -> list[Path]:
    """Every Python file of the checkout, relative to its root; the starter has no suffix."""
    return [path for path in files() if path.suffix == ".py" or path == Path("headrace")]


def test_ruff_has_nothing_to_say() -> None:
    """Lint passes over the whole checkout."""
    command = [sys.executable, "-m", "ruff", "check", *map(str, python_files())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_is_strict_and_content() -> None:
    """Types hold under --strict, in all folders that pyproject.toml names."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_follow_the_arrows() -> None:
    """A folder imports only what the table of folders lets it: the core knows no adapter, and adapters know no service."""
    against = [
        f"{path}:{line} imports {module}"
        for path in python_files()
        for line, module in imports(path)
        if path.parts[0] in MAY_IMPORT and module.split(".")[0] in OURS - MAY_IMPORT[path.parts[0]]
    ]
    assert not against, "\n".join(against)


@pytest.mark.parametrize(
    ("statement", "module"),
    [
        ("import connectors.registry as r", "connectors.registry"),
        ("def later():\n    from infra.settings import Settings", "infra.settings"),
        ("if TYPE_CHECKING:\n    from agents import inference", "agents"),
    ],
)
def test_the_arrows_test_sees_every_kind_of_import(statement: str, module: str, tmp_path: Path) -> None:
    """Imports inside functions and under TYPE_CHECKING count too."""
    file = tmp_path / "example.py"
    file.write_text(statement)
    assert [found for _, found in imports(file)] == [module]


def test_every_file_says_what_it_is() -> None:
    """The first statement of a file is its docstring; an empty __init__.py needs none."""
    texts = {str(path): (ROOT / path).read_text() for path in python_files()}
    silent = [path for path, text in texts.items() if text.strip() and ast.get_docstring(ast.parse(text)) is None]
    assert not silent, silent


def test_no_file_names_a_registry_or_somebodys_folder() -> None:
    """Where packages come from is each user's own setting, and a path of one machine is wrong on every other."""
    hosts = [rf"\b{re.escape(host)}" for host in REGISTRIES]
    homes = [rf"(?<![\w.~-]){re.escape(home)}" for home in HOMES]
    forbidden = re.compile("|".join(hosts + homes))
    found = []
    for path in files():
        for number, line in enumerate((ROOT / path).read_text(errors="ignore").splitlines(), 1):
            if forbidden.search(line):
                found.append(f"{path}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_design_tells_the_catalogue_as_it_is() -> None:
    """DESIGN.md's tables of topics and events are what streams/topics.py and schemas/events.py say."""
    text = (ROOT / "DESIGN.md").read_text()
    topics = catalogue(("local",), 4, 8)
    written = {row[0]: row[1:] for row in table(text, "## Topics")}
    assert written == {t.name: [t.key, ", ".join(e.__name__ for e in t.events), str(t.partitions), kept(t)] for t in topics}
    events = {row[0] for row in table(text, "## Events")}
    assert events == {event.__name__ for topic in topics for event in topic.events}


def kept(topic: Topic) -> str:
    """How long a topic's records stay, as DESIGN.md writes it."""
    return "compacted" if topic.compacted else f"{topic.retention_ms // 86_400_000} d"


def table(text: str, heading: str) -> list[list[str]]:
    """Rows of the first table after a heading, without its head."""
    section = text.split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| \n").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of each absolute import; relative ones stay inside their folder."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
