"""The command line: `perdure`. What a command needs is imported when it runs, so that `--version` does not wait."""

from perdure.cli.application import main

__all__ = ["main"]
