"""The whole core, command by command, to be read. `pytest --rewrite` writes anew what comes of each command."""

from pathlib import Path

import pytest

from tests.core.transcript import replay

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    source = path.read_text()
    now = replay(source)
    if request.config.getoption("--rewrite"):
        path.write_text(now)
    assert path.read_text() == now


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 6
