"""`perdure serve`: run the handlers of one or more apps in a server."""

import importlib
import logging
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.sdk.app import App
from perdure.sdk.service import Service, VirtualObject, Workflow

__all__ = ["load_app", "serve"]


def serve(
    apps: Annotated[
        list[str],
        typer.Argument(metavar="MODULE:APP...", help="What to serve: modules, and the names of the App in each."),
    ],
    data_dir: Annotated[
        str | None, typer.Option(help="Where everything is stored; made if it is not there. [default: perdure-data]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen at. [default: 127.0.0.1]")] = None,
    ingress_port: Annotated[
        int | None, typer.Option(help="Where handlers are called; 0 for a free port. [default: 8080]")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Health, invocations, state; 0 for a free port. [default: 9070]")
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(help="How many parts the work is cut into, when the data directory is made. [default: 1]"),
    ] = None,
) -> None:
    """Serve the handlers of one or more apps.

    MODULE is imported from the current directory or the Python path. Every setting can also be given in the
    environment: PERDURE_DATA_DIR, PERDURE_HOST, PERDURE_INGRESS_PORT, PERDURE_REQUEST_SIZE_LIMIT, ...
    """
    began = time.monotonic()
    from perdure.config import Config
    from perdure.server import run

    config = Config.load(
        {
            "data_dir": data_dir,
            "host": host,
            "ingress_port": ingress_port,
            "admin_port": admin_port,
            "partitions": partitions,
        }
    )
    _log_to_stderr()
    sys.path.insert(0, str(Path.cwd()))
    run(config, [load_app(each) for each in apps], _announce, began)


def _announce(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def _log_to_stderr() -> None:
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def load_app(text: str) -> App:
    """The App that "module:name" stands for. Raises `typer.BadParameter` that says what was found instead."""
    module_name, colon, name = text.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        module_name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise typer.BadParameter(f"{text!r} is a file; name the module: {module_name}:{name or 'app'}")
    module = _import(module_name)
    if not colon or not name:
        raise typer.BadParameter(f"{text!r}: write MODULE:APP. {_apps_in(module)}")
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise typer.BadParameter(f"module {module_name} has no {name!r}. {_apps_in(module)}") from None
    if isinstance(value, App):
        return value
    if isinstance(value, Service | VirtualObject | Workflow):
        kind = type(value).__name__
        raise typer.BadParameter(f"{text} is a {kind}, not an App; put it into one: app = App({name})")
    raise typer.BadParameter(f"{text} is no App but a {type(value).__qualname__}: {value!r:.80}. {_apps_in(module)}")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise typer.BadParameter(
                f"there is no module {error.name!r} in {Path.cwd()} or on the Python path"
            ) from None
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> typer.BadParameter:
    """The module is there and fails; its traceback, from its own first line on, is what helps."""
    own = error.__traceback__
    while own is not None and (own.tb_frame.f_code.co_filename == __file__ or "importlib" in str(own.tb_frame)):
        own = own.tb_next
    own = own or error.__traceback__
    typer.echo("".join(traceback.format_exception(type(error), error, own)), err=True)
    return typer.BadParameter(f"module {name!r} fails when it is imported: {type(error).__name__}: {error}")


def _apps_in(module: Any) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, App)]
    if not names:
        return "It has no App; make one: app = App(service, ...)"
    return f"It has the App {', '.join(f'{module.__name__}:{name}' for name in names)}"
