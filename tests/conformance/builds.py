"""The SDKs whose services are compiled, before the first test and anew when a source or a pinned version changes."""

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.install import CACHE, HERE

BUILD_TIMEOUT_S = 1200.0


@dataclass(frozen=True)
class Build:
    """How the services in `services_<name>` become a program. Its commands are relative to the copied sources."""

    name: str
    tools: tuple[str, ...]
    command: tuple[str, ...]
    program: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """A copy: what a tool writes beside the sources, such as where packages came from, stays out of the tree."""
        return CACHE / self.name / "sources"

    def missing(self) -> list[str]:
        """The tools that this machine lacks."""
        return [tool for tool in self.tools if shutil.which(tool) is None]

    def build(self) -> None:
        tree = HERE / f"services_{self.name}"
        sources = {path.relative_to(tree): path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()}
        wanted = hashlib.sha256(repr((self.command, sources)).encode()).hexdigest()
        mark = self.directory.parent / ".built"
        if mark.exists() and mark.read_text() == wanted:
            return
        mark.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        for path, content in sources.items():
            copy = self.directory / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
        made = subprocess.run(self.command, cwd=self.directory, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
        if made.returncode:
            raise RuntimeError(f"{' '.join(self.command)} failed:\n{made.stdout[-4000:]}{made.stderr[-4000:]}")
        mark.write_text(wanted)


JVM = (
    "-XX:TieredStopAtLevel=1",  # tests start it and kill it: it should be up soon rather than be fast in the end
    "-Xmx256m",
    # It is killed, and would leave a directory of copied resources behind each time.
    "-Dvertx.disableFileCPResolving=true",
    "-Dvertx.disableFileCaching=true",
)

BUILDS = {
    made.name: made
    for made in (
        Build("go", ("go",), ("go", "build", "-o", "../services", "."), ("../services",)),
        Build(
            "rust",
            ("cargo", "rustc", "cc"),
            ("cargo", "build", "--quiet", "--target-dir", "../target"),
            ("../target/debug/conformance",),
        ),
        Build(
            "java",
            ("java", "javac", "mvn"),
            ("mvn", "--batch-mode", "--quiet", "compile", "dependency:copy-dependencies"),
            ("java", *JVM, "-cp", "target/classes:target/dependency/*", "Main"),
        ),
    )
}
