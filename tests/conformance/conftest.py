"""Which servers and which SDKs are tested, and what tests are given."""

import itertools
import secrets
from collections.abc import Collection, Iterator

import pytest

from tests.conformance.builds import BUILDS
from tests.conformance.deployed import Deployed, Stack
from tests.conformance.endpoints import BIDI, REQUEST_RESPONSE, SDKS, SMALL
from tests.conformance.install import node_modules, peers_python, restate_server
from tests.conformance.servers import SERVERS, VERSIONED
from tests.conformance.witness import Witness

MODES = (BIDI, REQUEST_RESPONSE)
LEFT_OUT = pytest.StashKey[dict[str, list[str]]]()
_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance-server", default=",".join(SERVERS), help="servers under test")
    parser.addoption("--conformance-sdk", default=",".join(SDKS), help="SDKs that serve the services")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_modes: run in request/response mode too")
    config.addinivalue_line("markers", "sdks(*names): only the SDKs that have what the case needs")
    config.addinivalue_line("markers", "since(version): needs this version of the protocol")
    config.addinivalue_line("markers", "small: one of the few cases that are run with every SDK")


def _chosen(config: pytest.Config, option: str, known: Collection[str]) -> list[str]:
    """pytest knows the options only when this directory is named on its command line."""
    chosen = str(config.getoption(option, ",".join(known))).split(",")
    unknown = set(chosen) - set(known)
    if unknown:
        raise pytest.UsageError(f"{option}: {', '.join(sorted(unknown))} is not one of {', '.join(known)}")
    return chosen


def _buildable(config: pytest.Config, sdks: list[str]) -> list[str]:
    """Whoever lacks a compiler still runs the rest; what is left out is said at the end."""
    left_out = {sdk: build.missing() for sdk, build in BUILDS.items() if sdk in sdks and build.missing()}
    config.stash[LEFT_OUT] = left_out
    return [sdk for sdk in sdks if sdk not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for sdk, missing in config.stash.get(LEFT_OUT, {}).items():
        terminalreporter.write_line(f"conformance: the SDK {sdk} is left out, as {', '.join(missing)} is not installed")


def _can(metafunc: pytest.Metafunc, sdk: str) -> bool:
    able = next(metafunc.definition.iter_markers("sdks"), None)
    few = next(metafunc.definition.iter_markers("small"), None)
    return (able is None or sdk in able.args) and (few is not None or sdk not in SMALL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "stack" not in metafunc.fixturenames:
        return
    servers = _chosen(metafunc.config, "--conformance-server", SERVERS)
    sdks = _buildable(metafunc.config, _chosen(metafunc.config, "--conformance-sdk", SDKS))
    able = [sdk for sdk in sdks if _can(metafunc, sdk)]
    pairs = [(server, sdk) for server in servers for sdk in able if _speak(metafunc, server, sdk)]
    ids = [f"{server}-{sdk}" for server, sdk in pairs]
    metafunc.parametrize("stack", pairs, ids=ids, indirect=True, scope="session")
    if "mode" in metafunc.fixturenames:
        modes = MODES if next(metafunc.definition.iter_markers("both_modes"), None) else (BIDI,)
        metafunc.parametrize("mode", modes, scope="session")


def _speak(metafunc: pytest.Metafunc, server: str, sdk: str) -> bool:
    """Other versions of the protocol are tested with one SDK, and with what is in them."""
    if server not in VERSIONED:
        return True
    needed = next(metafunc.definition.iter_markers("since"), None)
    return sdk == "python" and (needed is None or VERSIONED[server] >= needed.args[0])


def _pair(item: pytest.Item) -> tuple[str, str] | None:
    """The server and the SDK of a test of this suite, if any chosen SDK can do what it needs."""
    known = (
        item.callspec.params.get("stack") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    )
    return known if isinstance(known, tuple) else None


def _is_none(item: pytest.Item) -> bool:
    """A case for other SDKs than the chosen ones, or in a mode in which the SDK is not tested."""
    if not isinstance(item, pytest.Function) or "stack" not in item.fixturenames:
        return False
    pair = _pair(item)
    return pair is None or (pair[1] in SMALL and item.callspec.params.get("mode", BIDI) != BIDI)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """They are not there, rather than skipped."""
    gone = [item for item in items if _is_none(item)]
    if gone:
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=gone)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Installations and builds come before the first test, whose time is limited."""
    if session.config.option.collectonly:
        return
    pairs = {pair for pair in map(_pair, session.items) if pair is not None}
    if any(server == "restate" for server, _ in pairs):
        restate_server()
    if any(sdk == "python" for _, sdk in pairs):
        peers_python()
    if any(sdk == "typescript" for _, sdk in pairs):
        node_modules()
    for build in BUILDS.values():
        if any(sdk == build.name for _, sdk in pairs):
            build.build()


@pytest.fixture(scope="session")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    return Witness(tmp_path_factory.mktemp("witness"))


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, witness: Witness
) -> Iterator[Stack]:
    engine, sdk = request.param
    made = Stack(engine, sdk, tmp_path_factory.mktemp(f"{engine}-{sdk}"), witness.directory)
    yield made
    made.close()


@pytest.fixture(scope="module")
def fragile(stack: Stack, tmp_path_factory: pytest.TempPathFactory, witness: Witness) -> Iterator[Deployed]:
    """A server of its own, to be killed; its endpoint stays."""
    made = Stack(stack.engine, stack.sdk, tmp_path_factory.mktemp("fragile"), witness.directory)
    yield made.deployed(BIDI)
    made.close()


@pytest.fixture
def on(stack: Stack, mode: str) -> Deployed:
    """The server with the services, shared with other tests: keys are unique, nothing is killed."""
    return stack.deployed(mode)


@pytest.fixture
def key() -> str:
    """A name that no other test uses."""
    return f"{next(_numbers)}-{secrets.token_hex(4)}"
