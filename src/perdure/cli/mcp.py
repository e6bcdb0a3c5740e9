"""`perdure mcp`: handlers as tools for whoever speaks MCP."""

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

import perdure
from perdure.cli.access import access
from perdure.cli.admin import DEFAULT_URL, AdminUrl
from perdure.cli.asking import MISUSED, end
from perdure.cli.call import DEFAULT_INGRESS, IngressUrl
from perdure.cli.options import ConfigFile, load_settings
from perdure.sdk.app import App

if TYPE_CHECKING:
    from perdure.config import Config
    from perdure.mcp.gateway import Gateways

__all__ = ["mcp"]


def mcp(
    apps: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE:APP]...",
            help="What to serve in this process, without a server beside it. Without any, a server is asked.",
        ),
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="Only the handlers of this service. May be given again.")
    ] = None,
    http: Annotated[
        int | None, typer.Option(metavar="PORT", help="Serve HTTP at this port (0: a free one), not stdin and stdout.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to serve HTTP; what is not loopback needs API keys.")] = "127.0.0.1",
    name: Annotated[str, typer.Option(help="How this server calls itself.")] = "perdure",
    long_calls: Annotated[
        bool,
        typer.Option("--long-calls/--no-long-calls", help="Also tools to begin calls, and to ask for results later."),
    ] = True,
    data_dir: Annotated[str | None, typer.Option(help="With MODULE:APP: where to store everything.")] = None,
    config: ConfigFile = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print what to put into a client's configuration, and exit.")
    ] = False,
    ingress_url: IngressUrl = DEFAULT_INGRESS,
    admin_url: AdminUrl = DEFAULT_URL,
) -> None:
    """Serve handlers as MCP tools: to a desktop client over stdin and stdout, or over HTTP.

    Every public handler is a tool, and a call of one is an invocation: it goes on whatever happens to the client, the
    connection or this process. The tools are those of the server at --admin-url and --ingress-url, or of the apps that
    are named, which are then served in this process.
    """
    if not apps and (data_dir is not None or config is not None):
        end("--data-dir and --config are for MODULE:APP; a server has its own", MISUSED)
    if print_config:
        _print_config(apps or [], service or [], http, host, name, long_calls, data_dir, config, ingress_url, admin_url)
        return
    if importlib.util.find_spec("mcp") is None:
        end("the package mcp is not installed: pip install 'perdure[mcp]'", MISUSED)
    served = None if not apps else _Served(apps, data_dir, config)
    with asyncio.Runner() as runner:
        runner.run(_serve(served, frozenset(service or ()), http, host, name, long_calls, ingress_url, admin_url))


# ---- what a client's configuration has


def _print_config(
    apps: list[str],
    services: list[str],
    http: int | None,
    host: str,
    name: str,
    long_calls: bool,
    data_dir: str | None,
    config: Path | None,
    ingress_url: str,
    admin_url: str,
) -> None:
    if http is not None:
        if not http:
            end("--print-config needs the port: --http PORT", MISUSED)
        _show({"mcpServers": {name: {"type": "http", "url": f"http://{host}:{http}/mcp"}}})
        return
    arguments = ["mcp", *apps]
    for each in services:
        arguments += ["--service", each]
    if name != "perdure":
        arguments += ["--name", name]
    if not long_calls:
        arguments.append("--no-long-calls")
    environment = {}
    if apps:
        # A desktop client starts commands wherever it likes: what is relative to this directory must not be.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
        arguments += ["--data-dir", str(Path(data_dir or "perdure-data").absolute())]
        if config is not None:
            arguments += ["--config", str(config.absolute())]
    else:
        arguments += ["--ingress-url", ingress_url, "--admin-url", admin_url]
    used = access()
    for variable, file in (("PERDURE_API_KEY_FILE", used.key_file), ("PERDURE_CA_FILE", used.ca_file)):
        if file:  # never a key itself
            environment[variable] = str(Path(file).absolute())
    entry: dict[str, Any] = {"command": _command(), "args": [*_prefix(), *arguments]}
    _show({"mcpServers": {name: entry | ({"env": environment} if environment else {})}})


def _show(value: Any) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _command() -> str:
    script = Path(sys.executable).with_name("perdure.exe" if sys.platform == "win32" else "perdure")
    return str(script) if script.is_file() else sys.executable


def _prefix() -> list[str]:
    return [] if _command() != sys.executable else ["-m", "perdure"]


# ---- serving


async def _check_reach(host: str, gateways: "Gateways", admin_url: str) -> None:
    """Beyond this machine nobody is let in without a key."""
    from perdure.errors import RequestError
    from perdure.web.security import is_loopback

    if is_loopback(host):
        return
    try:
        status = await gateways.admits(None)
    except (RequestError, TimeoutError) as error:
        end(f"{admin_url} does not say whether it asks for API keys: {error}")
    if status == 200:
        end(f"--host {host} is not loopback, and {admin_url} asks for no API key; make one: perdure keys create")


class _Served:
    """Apps served in this process, on free ports of loopback unless the settings say where."""

    def __init__(self, names: list[str], data_dir: str | None, file: Path | None) -> None:
        from perdure.cli.serve import load_app
        from perdure.sdk.logs import setup_logging

        found = load_settings(file, {"data_dir": data_dir})
        free = {port: 0 for port in ("ingress_port", "admin_port") if found.sources[port].kind == "default"}
        self.config: Config = load_settings(file, {"data_dir": data_dir, **free}).config
        setup_logging(self.config.log_format, self.config.log_level, replays=self.config.log_replays)
        sys.path.insert(0, str(Path.cwd()))
        loaded = {each: load_app(each) for each in names}
        self.apps = [each for each in loaded.values() if isinstance(each, App)]
        self.others = {name: each for name, each in loaded.items() if not isinstance(each, App)}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[str, str, asyncio.Event]]:
        """Where ingress and admin port are, and what is set when it has to stop."""
        from perdure.server import Server

        server = Server(self.config, self.apps, self.others)
        await server.start()
        try:
            assert server.ingress is not None and server.admin is not None
            yield server.ingress.url, server.admin.url, server.stopping
        finally:
            await server.stop()
        if server.failure is not None:
            raise perdure.PerdureError(f"the engine has stopped: {server.failure}") from server.failure


@contextlib.asynccontextmanager
async def _elsewhere(ingress_url: str, admin_url: str) -> AsyncIterator[tuple[str, str, asyncio.Event]]:
    yield ingress_url, admin_url, asyncio.Event()


async def _serve(
    served: _Served | None,
    services: frozenset[str],
    http: int | None,
    host: str,
    name: str,
    long_calls: bool,
    ingress_url: str,
    admin_url: str,
) -> None:
    from perdure.mcp.gateway import Address, Gateways
    from perdure.mcp.server import make_server

    ended = True
    place = _elsewhere(ingress_url, admin_url) if served is None else served.running()
    async with place as (ingress, admin, stop):
        gateways = Gateways(Address(ingress, admin, access().ca_file, services), access().key)
        server = make_server(gateways, name=name, version=perdure.__version__, long_calls=long_calls)
        try:
            if http is None:
                ended = await _over_stdio(server, stop)
            else:
                await _check_reach(host, gateways, admin)
                await _over_http(server, gateways, host, http, stop)
        finally:
            await gateways.close()
    if not ended:
        # A thread waits for our standard input, and nothing but its end would let go of that; all else is closed.
        sys.stderr.flush()
        os._exit(0)


async def _over_stdio(server: Any, stop: asyncio.Event) -> bool:
    """Whether the client has closed our standard input; if not, we have been told to stop."""
    from perdure.mcp.serving import serve_stdio

    serving = asyncio.ensure_future(serve_stdio(server))
    stopping = asyncio.ensure_future(stop.wait())
    _on_signals(stop)
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        return False
    stopping.cancel()
    await serving
    return True


async def _over_http(server: Any, gateways: "Gateways", host: str, port: int, stop: asyncio.Event) -> None:
    from perdure.mcp.serving import bound, serve_http, url_of

    try:
        listener = bound(host, port)
    except OSError as error:
        end(f"cannot serve at {host}:{port}: {error.strerror or error}")
    _on_signals(stop)
    typer.echo(f"MCP at {url_of(listener)}", err=True)
    await serve_http(server, gateways, listener, stop)


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, stop.set)
