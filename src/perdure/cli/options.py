"""The settings of a server as options of a command: one for each field of `Config`."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from perdure.cli.asking import MISUSED, end, one_line
from perdure.config import Config
from perdure.errors import Invalid
from perdure.settings import Found, Setting, read, settings_of, written

__all__ = ["ConfigFile", "load_settings", "with_settings"]

F = TypeVar("F", bound=Callable[..., Any])
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The file with settings (default: what PERDURE_CONFIG says, else perdure.toml).",
    ),
]


def with_settings(command: F) -> F:
    """Give a command that takes `**settings` an option for each; what was not given arrives as None."""
    own = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
    options = [_option(each) for each in settings_of(Config)]
    command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return command


def load_settings(
    file: Path | None, given: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Found[Config]:
    """The settings that hold. Exits with 2 if something is wrong with them, and warns of what has no effect."""
    try:
        found = read(Config, given, environ, file)
    except Invalid as error:
        end(error.message, MISUSED)
    for warning in found.warnings:
        typer.echo(f"perdure: {one_line(warning)}", err=True)
    return found


def _option(setting: Setting) -> inspect.Parameter:
    """Texts, which `perdure.settings` reads as it reads variables: units are known in one place."""
    flag = setting.flag if setting.type is not bool else f"{setting.flag}/--no-{setting.flag.removeprefix('--')}"
    default = (
        "" if setting.default in (None, (), []) else f" (default: {written(setting, setting.default).strip(chr(34))})"
    )
    type = bool if setting.type is bool else list[str] if setting.is_list else str
    metavar = None if setting.type is bool else _metavar(setting)
    again = " May be given again." if setting.is_list else ""
    option = typer.Option(flag, help=setting.description + again + default, metavar=metavar, rich_help_panel="Settings")
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[type | None, option],
    )


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "|".join(setting.choices)
    if setting.is_duration:
        return "DURATION"
    if setting.is_size:
        return "SIZE"
    return "NUMBER" if setting.type in (int, float) else "TEXT"
