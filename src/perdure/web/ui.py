"""The console: what `ui/` is built into, served to browsers. See docs/console.md.

The files are made beforehand, compressed copies among them, so serving one costs a look into a dict. Names of assets
have a hash of their content in them and are kept by browsers for a year; `index.html` is asked for each time. Every
other path is one of the console's own pages, which `index.html` shows.
"""

import hashlib
import mimetypes
from pathlib import Path
from typing import Final, NamedTuple

from perdure.web.http import Header, Request, Response, Router
from perdure.web.operations import Operation

__all__ = ["CONSOLE", "UiRoutes"]

CONSOLE: Final = Path(__file__).with_name("console")
"""Where the built console is: in the wheel, and beside this file once `make ui` has been run."""

_INDEX: Final = "index.html"
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_YEAR: Final = (b"cache-control", b"public, max-age=31536000, immutable")
_EACH_TIME: Final = (b"cache-control", b"no-cache")
_VARY: Final = (b"vary", b"accept-encoding")
_ENCODINGS: Final = ((b"br", ".br"), (b"gzip", ".gz"))
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PROTECTION: Final[tuple[Header, ...]] = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_UNBUILT: Final = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>perdure</title>
<h1>perdure</h1>
<p>The web console has not been built. In a checkout, with Node 20.19 or newer:</p>
<pre>make ui</pre>
<p>The package at PyPI has it. What it shows, the command line shows too:</p>
<pre>perdure services list
perdure invocations list
perdure why INVOCATION
perdure sql "SELECT * FROM sys_invocation"</pre>
<p>The admin API is described at <a href="/openapi">/openapi</a>.</p>
</html>
"""


class _File(NamedTuple):
    headers: tuple[Header, ...]
    tag: bytes
    bodies: dict[bytes, bytes]
    """By encoding; b"" is the file itself."""


class UiRoutes:
    """The root and `/ui` lead to `/ui/`, as they do at restate-server. `directory` has the built console, if any."""

    def __init__(self, directory: Path = CONSOLE) -> None:
        self._directory = directory
        self._files: dict[str, _File] = {}
        self._built: int | None = None

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        operation = Operation("ui", "To the console", {}, public=False)
        router.add("GET", "/", self._redirect, role=None, operation=operation)
        router.add("GET", "/ui", self._redirect, role=None, operation=operation)
        router.add("GET", "/ui/{*path}", self._show, role=None, operation=operation)

    async def _redirect(self, request: Request) -> Response:
        query = b"?" + request.query if request.query else b""
        return Response(308, [(b"location", b"/ui/" + query)])

    async def _show(self, request: Request, path: str) -> Response:
        self._read_anew()
        file = self._files.get(path)
        if file is None and path.startswith("assets/"):
            return Response(404, [])
        file = file or self._files.get(_INDEX)
        if file is None:
            return Response(200, [_HTML, _EACH_TIME, *_PROTECTION], _UNBUILT)
        headers = [*file.headers, (b"etag", file.tag)]
        if request.fields.get(b"if-none-match") == file.tag:
            return Response(304, headers)
        accepted = {part.partition(b";")[0].strip() for part in request.fields.get(b"accept-encoding", b"").split(b",")}
        for encoding, _ in _ENCODINGS:
            if encoding in accepted and encoding in file.bodies:
                return Response(200, [*headers, _VARY, (b"content-encoding", encoding)], file.bodies[encoding])
        return Response(200, headers, file.bodies[b""])

    def _read_anew(self) -> None:
        """Read the files, if they have been built since they were read."""
        try:
            built = (self._directory / _INDEX).stat().st_mtime_ns
        except OSError:
            built = None
        if built != self._built:
            self._files = {} if built is None else _files_in(self._directory)
            self._built = built


def _files_in(directory: Path) -> dict[str, _File]:
    copies = tuple(suffix for _, suffix in _ENCODINGS)
    return {
        path.relative_to(directory).as_posix(): _read(path, path.relative_to(directory).parts[0] == "assets")
        for path in directory.rglob("*")
        if path.is_file() and path.suffix not in copies
    }


def _read(path: Path, kept: bool) -> _File:
    content = path.read_bytes()
    bodies = {b"": content}
    for encoding, suffix in _ENCODINGS:
        copy = path.with_name(path.name + suffix)
        if copy.exists():
            bodies[encoding] = copy.read_bytes()
    type = {".js": "text/javascript", ".woff2": "font/woff2"}.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    text = "; charset=utf-8" if path.suffix in (".html", ".js", ".css") else ""
    headers: list[Header] = [(b"content-type", f"{type or 'application/octet-stream'}{text}".encode())]
    headers.append(_YEAR if kept else _EACH_TIME)
    if path.suffix == ".html":
        headers.extend(_PROTECTION)
    else:
        headers.append((b"x-content-type-options", b"nosniff"))
    return _File(tuple(headers), b'"' + hashlib.sha256(content).hexdigest()[:32].encode() + b'"', bodies)
