"""Options that all tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run what is meant to run for hours, for hours")
    parser.addoption("--rewrite", action="store_true", help="write transcripts anew, to be reviewed as a diff")
