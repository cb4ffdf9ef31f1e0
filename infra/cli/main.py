"""The command line: `./headrace <command>`. Every command is in a file of its group; this one gathers them and prints their errors."""

from __future__ import annotations

import sys

import typer

from infra.cli import ask, bench, catalogue, dead_letters, doctor, feedback, knowledge, logs, models, send, stack, status, testing, trace

_HELP = """Feeds AI models from Kafka: requests and answers are events on a log.

Begin with [bold]./headrace up[/], then [bold]./headrace ask "What is the capital of France?"[/]
"""
_EXAMPLES = """Examples:
  ./headrace up --detach
  ./headrace ask "What is the capital of France?"
  ./headrace trace REQUEST_ID
  ./headrace doctor"""


def create_app() -> typer.Typer:
    """All commands. Typer is told of no exceptions: errors of ours are sentences, and a bug's traceback should be a plain one."""
    app = typer.Typer(
        name="headrace", help=_HELP, epilog=_EXAMPLES, no_args_is_help=True, add_completion=False,
        rich_markup_mode="rich", pretty_exceptions_enable=False,
    )  # fmt: skip
    for group in (stack, ask, send, feedback, trace, status, logs, doctor, dead_letters, knowledge, catalogue, models, testing, bench):
        group.register(app)
    return app


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 it failed and said why, 2 wrong usage, 130 interrupted."""
    try:
        create_app()(prog_name="./headrace")
    except Exception as error:
        from infra.cli.failures import explain

        explained = explain(error)
        if explained is None:
            raise
        from infra.cli.output import print_failure

        print_failure(explained)
        sys.exit(1)


if __name__ == "__main__":
    main()
