"""`topics` and `schemas`: whether Kafka and the registry are as the catalogue says, and making them so."""

from __future__ import annotations

import typer

_TOPICS_EXAMPLES = """Examples:
  ./headrace topics diff     # exit code 1 where something differs, so that CI can ask
  ./headrace topics apply"""
_SCHEMAS_EXAMPLES = """Examples:
  ./headrace schemas check   # exit code 1 where a change would break readers or writers
  ./headrace schemas register"""


def register(app: typer.Typer) -> None:
    """Add both groups."""
    topics = typer.Typer(no_args_is_help=True, help="Compare topics, settings and rights with the catalogue, or bring them in line.")
    topics.command("diff", epilog=_TOPICS_EXAMPLES)(diff)
    topics.command("apply", epilog=_TOPICS_EXAMPLES)(apply)
    app.add_typer(topics, name="topics", epilog=_TOPICS_EXAMPLES)
    schemas = typer.Typer(no_args_is_help=True, help="Compare the event schemas with the registered ones, or register them.")
    schemas.command("check", epilog=_SCHEMAS_EXAMPLES)(check)
    schemas.command("register", epilog=_SCHEMAS_EXAMPLES)(register_all)
    app.add_typer(schemas, name="schemas", epilog=_SCHEMAS_EXAMPLES)


def diff() -> None:
    """Show what `topics apply` would change. Changes nothing."""
    from infra.access import ADMIN, topic_admin
    from infra.cli import connecting
    from infra.cli.output import mark, out
    from infra.settings import Settings

    settings = Settings()
    connecting.kafka_access(settings, ADMIN)
    differences = topic_admin(settings).diff()
    for difference in differences:
        out().print(str(difference), markup=False)
    if not differences:
        out().print(f"{mark(True)} topics, settings and rights are as the catalogue says")
    raise typer.Exit(1 if differences else 0)


def apply() -> None:
    """Make topics, settings and rights as the catalogue says. Rights that it doesn't name are taken away; no topic is deleted."""
    from infra.access import ADMIN, apply_topics
    from infra.cli import connecting
    from infra.cli.output import mark, out
    from infra.settings import Settings

    settings = Settings()
    connecting.kafka_access(settings, ADMIN)
    changed = apply_topics(settings)
    for difference in changed:
        out().print(str(difference), markup=False)
    out().print(f"{mark(True)} {len(changed)} changed" if changed else f"{mark(True)} nothing had to be changed")


def check() -> None:
    """Show which schemas can't follow their registered versions, and why. Changes nothing."""
    from infra.access import check_schemas
    from infra.cli import connecting
    from infra.cli.output import err, mark, out
    from infra.settings import Settings

    settings = Settings()
    connecting.codec(settings)
    breaking = check_schemas(settings)
    for name, reasons in breaking.items():
        out().print(f"{mark(False)} [bold]{name}[/]")
        for reason in reasons:
            out().print(f"    {reason}", markup=False)
    if breaking:
        err().print("[bold]  do:[/] undo these changes as their lines say, or make a new event beside the old one")
        raise typer.Exit(1)
    out().print(f"{mark(True)} every schema may follow its registered versions (FULL_TRANSITIVE)")


def register_all() -> None:
    """Register every schema under its topic. What is registered already stays; a breaking change registers nothing."""
    from infra.access import register_schemas
    from infra.cli import connecting
    from infra.cli.output import mark, out
    from infra.settings import Settings

    settings = Settings()
    connecting.codec(settings)
    count = register_schemas(settings, lambda subject, schema_id: out().print(f"{subject}: id {schema_id}", markup=False))
    out().print(f"{mark(True)} {count} subjects are registered")
