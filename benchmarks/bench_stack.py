"""Servers for a benchmark: Kafka, registry and Valkey of its own, with topics and schemas, and no agents."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.access import kafka_users
from infra.cli.bringing_up import prepare_log
from infra.local.progress import RichProgress
from infra.local.stack import Stack
from infra.settings import Settings

HOME = Path(".headrace-bench")


@contextmanager
def servers(home: Path = HOME) -> Iterator[Settings]:
    """Fresh servers on free ports, stopped at the end. Child processes find them by HEADRACE_HOME."""
    shutil.rmtree(home, ignore_errors=True)
    os.environ["HEADRACE_HOME"] = str(home.absolute())
    settings = Settings()
    users = kafka_users(settings)
    words = settings.ensure_credentials(users)
    progress = RichProgress()
    stack = Stack(settings, {user: words[user] for user in users}, [], progress)
    try:
        stack.up([lambda: prepare_log(progress)])
        yield Settings()
    finally:
        stack.stop()
