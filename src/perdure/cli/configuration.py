"""`perdure config`: which settings hold, and where each is from."""

from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.cli.admin import AsJson, show_json
from perdure.cli.options import ConfigFile, load_settings
from perdure.cli.tables import show_table
from perdure.config import Config
from perdure.settings import Setting, masked, settings_of, written

__all__ = ["app"]

app = typer.Typer(name="config", help="The settings of a server: which hold, and where from.", no_args_is_help=True)


@app.command("show")
def show(
    config: ConfigFile = None,
    as_json: AsJson = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print a file that sets the same.")] = False,
) -> None:
    """Print the settings that a server started here would have, and where each is from. Secrets are masked."""
    if as_json and as_toml:
        raise typer.BadParameter("--json or --toml, not both")
    found = load_settings(config)
    rows = [
        (setting, masked(setting, getattr(found.config, setting.name)), found.sources[setting.name])
        for setting in settings_of(Config)
    ]
    if as_json:
        shown = {
            setting.name: {"value": value, "source": source.kind, "place": source.place or None}
            for setting, value, source in rows
        }
        show_json({"file": None if found.file is None else str(found.file), "settings": shown})
    elif as_toml:
        for setting, value, source in rows:
            if value is None or setting.is_secret:
                typer.echo(f"# {setting.name} is {'not set' if value is None else 'set, and secret'}")
            else:
                typer.echo(f"{setting.name} = {written(setting, value)}  # {source}")
    else:
        shown_rows = [(setting.name, _shown(setting, value), str(source)) for setting, value, source in rows]
        show_table(("SETTING", "VALUE", "FROM"), shown_rows)


def _shown(setting: Setting, value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else written(setting, value).strip('"')


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file with settings.")], as_json: AsJson = False
) -> None:
    """Say whether a file of settings is right, whatever the environment says. What is wrong: exit code 2."""
    found = load_settings(file, environ={})
    names = [name for name, source in found.sources.items() if source.kind == "file"]
    if as_json:
        show_json({"file": str(file), "settings": names})
    else:
        typer.echo(f"{file}: {len(names)} {'setting' if len(names) == 1 else 'settings'}, all known and right")
