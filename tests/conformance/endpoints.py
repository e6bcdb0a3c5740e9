"""The processes that serve the contract's services, written with one SDK or another."""

import shutil
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.conformance.builds import BUILDS
from tests.conformance.install import HERE, node_modules, peers_python
from tests.conformance.processes import Child
from tests.ports import free_port

REQUEST_RESPONSE = "request_response"
BIDI = "bidi"


@dataclass(frozen=True)
class Options:
    """What the contract lets an endpoint be told."""

    mode: str = BIDI
    version: str = "v1"
    prefix: str = ""
    services: tuple[str, ...] = ()


class Endpoint(ABC):
    """A process on a fixed port: it can be killed and started again."""

    def __init__(self, directory: Path, witness: Path, options: Options) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.port = free_port()
        self._witness = witness
        self._child: Child | None = None

    @abstractmethod
    def _command(self) -> tuple[Sequence[str | Path], Path]:
        """What to run, and where."""

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def registration(self) -> dict[str, object]:
        """The body that registers it."""
        return {"uri": self.uri, "use_http_11": self.options.mode == REQUEST_RESPONSE}

    def start(self) -> None:
        command, cwd = self._command()
        env = {
            "PORT": str(self.port),
            "MODE": self.options.mode,
            "VERSION": self.options.version,
            "PREFIX": self.options.prefix,
            "SERVICES": ",".join(self.options.services),
            "WITNESS_DIR": str(self._witness),
        }
        self._child = Child(command, self.directory / "endpoint.log", env, cwd)
        self._child.wait_until(self._is_listening)

    def _is_listening(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()


class PythonEndpoint(Endpoint):
    def _command(self) -> tuple[Sequence[str | Path], Path]:
        services = HERE / "services_python"
        return [peers_python(), services / "serve.py"], services


class TypeScriptEndpoint(Endpoint):
    def _command(self) -> tuple[Sequence[str | Path], Path]:
        """A copy beside the installed packages: Node looks for them above the file that imports them."""
        copy = self.directory / "services"
        if not copy.exists():
            shutil.copytree(HERE / "services_typescript", copy, ignore=shutil.ignore_patterns("node_modules"))
            (copy / "node_modules").symlink_to(node_modules(), target_is_directory=True)
        return ["node", copy / "serve.js"], copy


class PerdureEndpoint(Endpoint):
    def _command(self) -> tuple[Sequence[str | Path], Path]:
        return [sys.executable, "-m", "tests.conformance.services_perdure.serve"], HERE.parent.parent


class CompiledEndpoint(Endpoint):
    sdk: ClassVar[str]

    def _command(self) -> tuple[Sequence[str | Path], Path]:
        build = BUILDS[self.sdk]
        return build.program, build.directory


class GoEndpoint(CompiledEndpoint):
    sdk = "go"


class RustEndpoint(CompiledEndpoint):
    sdk = "rust"


class JavaEndpoint(CompiledEndpoint):
    sdk = "java"


SDKS: dict[str, type[Endpoint]] = {
    "python": PythonEndpoint,
    "typescript": TypeScriptEndpoint,
    "perdure": PerdureEndpoint,
    "go": GoEndpoint,
    "rust": RustEndpoint,
    "java": JavaEndpoint,
}
SMALL = frozenset(BUILDS)
"""The SDKs with which only the tests marked `small` are run, with bidirectional streams."""
