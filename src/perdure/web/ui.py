"""Where a browser that asks the admin port ends up: a page that says what there is."""

from typing import Final

from perdure.web.http import Request, Response, Router
from perdure.web.operations import Operation

__all__ = ["UiRoutes"]

_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_PAGE: Final = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>perdure</title>
<h1>perdure</h1>
<p>The web console is not part of this installation. What it would show, the command line shows:</p>
<pre>perdure services list
perdure invocations list
perdure why INVOCATION
perdure sql "SELECT * FROM sys_invocation"</pre>
<p>The admin API is described at <a href="/openapi">/openapi</a>.</p>
</html>
"""


class UiRoutes:
    """The root and `/ui` lead to `/ui/`, as they do at restate-server."""

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        operation = Operation("ui", "To the console", {}, public=False)
        router.add("GET", "/", self._redirect, role=None, operation=operation)
        router.add("GET", "/ui", self._redirect, role=None, operation=operation)
        router.add("GET", "/ui/{*path}", self._page, role=None, operation=operation)

    async def _redirect(self, request: Request) -> Response:
        query = b"?" + request.query if request.query else b""
        return Response(308, [(b"location", b"/ui/" + query)])

    async def _page(self, request: Request, path: str) -> Response:
        return Response(200, [_HTML, (b"service-worker-allowed", b"/")], _PAGE)
