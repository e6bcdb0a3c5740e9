"""`perdure init`: a new project with one durable agent, its tests and how to run it."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

import perdure
from perdure.cli.admin import AsJson, show_json
from perdure.cli.asking import end

__all__ = ["init"]

SUFFIX = ".template"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def init(
    directory: Annotated[Path, typer.Argument(metavar="NAME", help="The project's directory, new or empty.")],
    as_json: AsJson = False,
) -> None:
    """Make a project: a durable agent that runs as it is, its tests, its README. Nothing is overwritten."""
    name = directory.resolve().name
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is no name for a project: letters, digits, '.', '_' and '-' only")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        end(f"{directory} is there already, and not empty; nothing was written")
    written = []
    for path, text in _files(files("perdure.cli").joinpath("project")):
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        text = text.replace("__NAME__", name).replace("__VERSION__", perdure.__version__)
        target.write_text(text, encoding="utf-8")
        written.append(path)
    if as_json:
        show_json({"name": name, "directory": str(directory.resolve()), "files": sorted(written)})
        return
    typer.echo(f"{directory}: {', '.join(sorted(written))}")
    if directory.resolve() != Path.cwd():
        typer.echo(f"  cd {directory}")
    typer.echo("  python -m pytest           # its tests")
    typer.echo("  perdure serve agent:app    # the agent")


def _files(folder: Traversable, below: str = "") -> list[tuple[str, str]]:
    """The templates, by what they become."""
    found = []
    for each in folder.iterdir():
        if each.is_dir():
            found += _files(each, f"{below}{each.name}/")
        elif each.name.endswith(SUFFIX):
            name = each.name.removesuffix(SUFFIX).replace("gitignore", ".gitignore")
            found.append((below + name, each.read_text(encoding="utf-8")))
    return found
