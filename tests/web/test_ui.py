"""The console's files: which, how they may be kept, and compressed as the browser likes it."""

import asyncio
import gzip
import os
from pathlib import Path

import pytest

from perdure.web.http import Request, Response
from perdure.web.ui import UiRoutes
from tests.web.fakes import Web


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>perdure</title>")
    (tmp_path / "assets" / "index-abc.js").write_text("console")
    (tmp_path / "assets" / "index-abc.js.gz").write_bytes(gzip.compress(b"console"))
    (tmp_path / "assets" / "index-abc.js.br").write_bytes(b"brotli")
    return tmp_path


def show(routes: UiRoutes, path: str, *headers: tuple[str, str]) -> tuple[Response, dict[str, str]]:
    async def app(*_: object) -> None:
        raise AssertionError

    async def receive() -> dict[str, str]:
        raise AssertionError

    request = Request(Web(app).scope("GET", f"/ui/{path}", headers), receive)
    response = asyncio.run(routes._show(request, path))
    return response, {name.decode(): value.decode() for name, value in response.headers}


@pytest.mark.parametrize("path", ["", "index.html", "invocations/inv_1", "state/Cart/a.b"])
def test_every_page_is_the_index(built: Path, path: str) -> None:
    response, headers = show(UiRoutes(built), path)
    assert (response.status, response.body) == (200, b"<!doctype html><title>perdure</title>")
    assert headers["cache-control"] == "no-cache"
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("accepted", "encoding"), [("gzip, deflate, br", "br"), ("gzip;q=1.0", "gzip"), ("identity", None), ("", None)]
)
def test_files_are_sent_as_the_browser_likes_them(built: Path, accepted: str, encoding: str | None) -> None:
    response, headers = show(UiRoutes(built), "assets/index-abc.js", ("accept-encoding", accepted))
    assert headers.get("content-encoding") == encoding
    assert response.body == {"br": b"brotli", "gzip": gzip.compress(b"console"), None: b"console"}[encoding]
    assert "immutable" in headers["cache-control"]
    assert headers["content-type"] == "text/javascript; charset=utf-8"


def test_what_is_not_there(built: Path) -> None:
    for path in ("assets/old-123.js", "assets/../../secret"):
        assert show(UiRoutes(built), path)[0].status == 404


def test_what_a_browser_has_is_not_sent_again(built: Path) -> None:
    routes = UiRoutes(built)
    tag = show(routes, "")[1]["etag"]
    response, _ = show(routes, "", ("if-none-match", tag))
    assert (response.status, response.body) == (304, b"")


def test_a_new_build_is_seen(built: Path) -> None:
    routes = UiRoutes(built)
    show(routes, "")
    (built / "index.html").write_text("new")
    os.utime(built / "index.html", ns=(1, 1))
    assert show(routes, "")[0].body == b"new"


def test_unbuilt_it_says_how_to_build_it(tmp_path: Path) -> None:
    response, _ = show(UiRoutes(tmp_path / "none"), "invocations")
    assert response.status == 200 and b"make ui" in bytes(response.body)  # type: ignore[arg-type]
