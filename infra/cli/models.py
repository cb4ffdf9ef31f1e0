"""`models`: which there are, fetching one, and reading one for damage."""

from __future__ import annotations

from typing import Annotated

import typer

_EXAMPLES = """Examples:
  ./headrace models list
  ./headrace models pull smollm2-135m-instruct
  ./headrace models pull ~/models/mine.gguf
  ./headrace models check smollm2-135m-instruct"""


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="List, fetch and check models.")
    group.command("list", epilog=_EXAMPLES)(list_models)
    group.command("pull", epilog=_EXAMPLES)(pull)
    group.command("check", epilog=_EXAMPLES)(check)
    app.add_typer(group, name="models", epilog=_EXAMPLES)


def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False) -> None:
    """List the models that can be fetched by name, and whether they are here."""
    from dataclasses import asdict

    from infra import models
    from infra.cli.output import print_json, print_table
    from infra.settings import Settings

    settings = Settings()
    entries = models.catalog().values()
    defaults = (settings.model, settings.embedder, settings.verifier)
    here = {entry.name: models.is_pulled(settings, entry.name) for entry in entries}
    if as_json:
        print_json([{**asdict(entry), "pulled": here[entry.name], "default": entry.name in defaults} for entry in entries])
        return
    states = {e.name: ("here" if here[e.name] else "not pulled") + (", default" if e.name in defaults else "") for e in entries}
    rows = [(e.name, e.kind, states[e.name], str(e.download_mb), str(e.context), e.license) for e in entries]
    print_table(("model", "kind", "state", "download MB", "context", "license"), rows)


def pull(
    name: Annotated[str, typer.Argument(help="A name of the list, or a .gguf file; empty for the installation's model.")] = "",
) -> None:
    """Fetch a model and make it quick to load. Does nothing where it is here and sound; a damaged one is fetched again."""
    from infra import models
    from infra.cli.output import out
    from infra.settings import Settings

    settings = Settings()
    models.pull(settings, name or settings.model, lambda line: out().print(line, markup=False))


def check(name: Annotated[str, typer.Argument(help="Model to read; empty for the installation's model.")] = "") -> None:
    """Read all bytes of a model and compare them with its digests. Exit code 1 where something is damaged."""
    from infra import models
    from infra.cli.output import mark, out
    from infra.settings import Settings
    from streams.errors import RetryableError

    settings = Settings()
    wanted = name or settings.model
    folder = models.folder(settings, wanted)
    if not (folder / models.MANIFEST).exists():
        out().print(f"{wanted} is a folder of yours without digests: nothing to compare", markup=False)
        return
    broken = models.damage(folder)
    if broken:
        remedy = f"fetch it again: ./headrace models pull {wanted}"
        raise RetryableError("model_damaged", f"{wanted} is damaged: {', '.join(broken)}", remedy)
    out().print(f"{mark(True)} {wanted} is whole, in {folder}")
