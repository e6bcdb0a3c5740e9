"""`perdure serve`: run the handlers of one or more apps in a server."""

import importlib
import inspect
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.options import ConfigFile, load_settings, with_settings
from perdure.sdk.app import App
from perdure.sdk.logs import setup_logging
from perdure.sdk.service import Service, VirtualObject, Workflow

if TYPE_CHECKING:
    from perdure.transports.asgi import AsgiApp

__all__ = ["load_app", "serve"]


@with_settings
def serve(
    apps: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE:APP]...",
            help="What to serve in this process: modules, and the App in each, or an ASGI app of restate-sdk.",
        ),
    ] = None,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Serve the handlers of apps in this process, and of whatever is registered with `perdure deployments register`.

    MODULE is imported from the current directory or the Python path. A setting is given as an option, in the
    environment (PERDURE_DATA_DIR, PERDURE_HOST, ...) or in a file, perdure.toml; `perdure config show` says which hold.
    """
    began = time.monotonic()
    from perdure import prices
    from perdure.server import run

    found = load_settings(config, settings)
    chosen = found.config
    setup_logging(chosen.log_format, chosen.log_level, replays=chosen.log_replays)
    if chosen.prices is not None:
        prices.use(prices.load(chosen.prices))
    sys.path.insert(0, str(Path.cwd()))
    loaded = {each: load_app(each) for each in apps or ()}
    run(
        found.config,
        [app for app in loaded.values() if isinstance(app, App)],
        _announce,
        began,
        {name: app for name, app in loaded.items() if not isinstance(app, App)},
    )


def _announce(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def load_app(text: str) -> "App | AsgiApp":
    """The App, or the ASGI app, that "module:name" stands for. Raises `typer.BadParameter`: what was found instead."""
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
    if _is_asgi(value):
        return value  # type: ignore[no-any-return]
    raise typer.BadParameter(f"{text} is no App but a {type(value).__qualname__}: {value!r:.80}. {_apps_in(module)}")


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_asgi(value: Any) -> bool:
    """Whether it is called as ASGI 3 applications are."""
    if isinstance(value, type) or not callable(value):
        return False
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    return len([each for each in parameters if each.default is each.empty and each.kind in _POSITIONAL]) == 3


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
