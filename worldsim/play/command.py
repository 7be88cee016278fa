"""`worldsim play`: serves the page. Knows no world, and imports the server when it is asked for."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from urllib.parse import quote

from worldsim.errors import UsageError
from worldsim.play.access import Access, is_loopback
from worldsim.play.limits import Limits

_PACKAGES = ("starlette", "uvicorn", "websockets")
_LAST_PORT = 65535
_EVERYWHERE = {"0.0.0.0", "::"}


def play(
    checkpoint: str = "arena-small",
    also: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    sessions: int = 4,
    device: str = "cpu",
    browser: bool = True,
) -> str:
    """Serve a page that plays a dream beside the true world, until Ctrl-C; return its address.

    Args:
        checkpoint: an embedded name, a checkpoint folder or a training run's folder.
        also: further checkpoints to choose from on the page; embedded ones are always among them.
        host: address to listen on; any other than this machine's own needs a token.
        port: port to listen on; 0 takes a free one.
        token: a secret that the page's address must hold, 16 characters or more.
        sessions: players at a time.
        device: where the model runs: cpu, cuda ..., with +openvino or +compile behind it for a back end.
        browser: open the page in a browser.

    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError("worldsim play", got=f"no {', '.join(missing)}", allowed="the extra 'play' installed",
                         fix="pip install 'worldsim[play]'")  # fmt: skip
    if sessions < 1:
        raise UsageError("sessions", got=sessions, allowed="1 or more", fix="4 is the default")
    access = Access(host=host, token=token)
    import uvicorn

    from worldsim.play.house import House
    from worldsim.play.server import build_app
    from worldsim.play.shelf import Shelf

    shelf = Shelf([checkpoint, *also], device)
    shelf.model(shelf.names[0])  # a broken checkpoint is told now
    limits = Limits(sessions=sessions)
    config = uvicorn.Config(
        build_app(House(shelf, limits, access)), log_level="warning", access_log=False, server_header=False,
        ws="websockets-sansio", ws_max_size=limits.message_bytes, ws_per_message_deflate=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    listener = _listen(host, port)
    address = _address(host, listener.getsockname()[1], token)
    sys.stderr.write(f"worldsim: playing at {address} (Ctrl-C ends)\n")
    if not is_loopback(host):
        sys.stderr.write("worldsim: other machines can reach this server; whoever has the address can play\n")
    if browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with listener:
        uvicorn.Server(config).run(sockets=[listener])
    return address


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; UsageError if the address or the port cannot be had."""
    try:
        if not 0 <= port <= _LAST_PORT:
            raise OSError(f"ports go up to {_LAST_PORT}")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError("host, port", got=f"{host}, {port} ({error})", allowed="an address of this machine and a free port",
                         fix="--port 0 takes a free one") from error  # fmt: skip


def _address(host: str, port: int, token: str | None) -> str:
    name = socket.gethostname() if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={quote(token)}" if token else "")
