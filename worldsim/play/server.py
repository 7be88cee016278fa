"""The server: the page's files, and the door to the sessions. Knows no world."""

from __future__ import annotations

import contextlib
import importlib.resources
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from worldsim.play.access import Access
from worldsim.play.connection import TOO_MUCH, TRY_LATER, Connection
from worldsim.play.house import House

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def build_app(house: House) -> Starlette:
    """Return the application: ``/`` and the page's files, and ``/play`` for players."""
    page = importlib.resources.files("worldsim.play").joinpath("page")
    files = {item.name: item.read_bytes() for item in page.iterdir() if item.name.rpartition(".")[2] in _TYPES}

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return PlainTextResponse("there is no such file", 404, headers=_HEADERS)
        return Response(files[name], media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)

    async def play(socket: WebSocket) -> None:
        refusal = house.access.refusal(socket.headers, socket.query_params.get("token", ""))
        if refusal is not None:
            return await socket.close(TOO_MUCH, refusal)  # before it is accepted: HTTP 403
        await socket.accept()
        if not house.take_seat():
            await socket.send_json({"type": "full", "sessions": house.limits.sessions})
            return await socket.close(TRY_LATER, "all seats are taken")
        try:
            await Connection(socket, house).run()
        finally:
            house.leave_seat()
        return None

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        house.close()

    app = Starlette(routes=[Route("/", file), WebSocketRoute("/play", play), Route("/{name}", file)], lifespan=lifespan)
    app.add_middleware(_KnownHosts, access=house.access)
    return app


class _KnownHosts:
    """Answers only requests that name this machine; sockets are looked at by the door itself."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._access.knows_host(Request(scope).headers.get("host", "")):
            return await PlainTextResponse("this server does not go by that name", 400)(scope, receive, send)
        return await self._app(scope, receive, send)
