"""`perdure identity`: the key with which this server signs its requests to endpoints."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(name="identity", help="The key that proves to endpoints who asks.")


@app.callback()
def _group() -> None:
    pass


@app.command("show")
def show(
    data_dir: Annotated[str | None, typer.Option(help="The server's data directory. [default: perdure-data]")] = None,
    identity_key: Annotated[str | None, typer.Option(help="The key file, if it is not in the data directory.")] = None,
) -> None:
    """Print the public key, for `App(..., identity_keys=[...])` or any Restate SDK. Makes the key if there is none."""
    from perdure.config import Config
    from perdure.runtime.identity import Identity

    config = Config.load({"data_dir": data_dir, "identity_key": identity_key})
    path = config.identity_path
    path.parent.mkdir(parents=True, exist_ok=True)
    typer.echo(Identity(Path(path)).public_key)
