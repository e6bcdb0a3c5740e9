"""The test's side of the files by which services make their side effects visible."""

from pathlib import Path

from tests.conformance.processes import until


class Witness:
    """One file per name, one line per event; and gates, for which handlers wait."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)

    def lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def count(self, name: str) -> int:
        return len(self.lines(name))

    def wait(self, name: str, count: int = 1, timeout_s: float = 20.0) -> list[str]:
        """The lines, once there are that many."""
        until(lambda: self.count(name) >= count, f"{count} lines from {name}", timeout_s, 0.01)
        return self.lines(name)

    def open(self, gate: str) -> None:
        (self.directory / f"{gate}.open").touch()
