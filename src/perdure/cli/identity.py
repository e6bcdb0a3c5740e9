"""`perdure identity`: the key with which this server signs its requests to endpoints."""

from typing import Annotated

import typer

from perdure.cli.admin import AsJson, show_json
from perdure.cli.options import ConfigFile, load_settings

__all__ = ["app"]

app = typer.Typer(name="identity", help="The key that proves to endpoints who asks.")


@app.callback()
def _group() -> None:
    pass


@app.command("show")
def show(
    data_dir: Annotated[str | None, typer.Option(help="The server's data directory. [default: perdure-data]")] = None,
    identity_key: Annotated[str | None, typer.Option(help="The key file, if it is not in the data directory.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Print the public key, for `App(..., identity_keys=[...])` or any Restate SDK. Makes the key if there is none."""
    from perdure.runtime.identity import Identity

    path = load_settings(config, {"data_dir": data_dir, "identity_key": identity_key}).config.identity_path
    path.parent.mkdir(parents=True, exist_ok=True)
    public_key = Identity(path).public_key
    if as_json:
        show_json({"public_key": public_key, "file": str(path)})
    else:
        typer.echo(public_key)
