"""Who may play: names of this machine, the page's own origin, a token. Knows no world.

A page of another site can make a browser connect to a loopback server, and a name that it rebinds to 127.0.0.1 passes
for its own; so the Host header must name this machine, the Origin header must be that very host, and from anywhere but
this machine a secret must be known.
"""

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from worldsim.errors import UsageError

SHORTEST_TOKEN = 16
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """The door of one server: ``host`` is the address it is bound to."""

    host: str
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise UsageError(
                "token", got=f"{len(self.token)} characters", allowed=f"{SHORTEST_TOKEN} or more", fix=_MAKE
            )
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                "token",
                got="none",
                allowed=f"a secret, since {self.host} can be reached from other machines",
                fix=_MAKE,
            )

    def knows_host(self, host: str) -> bool:
        """Return whether a Host header names this machine: a loopback name, and if bound further its name or an address."""
        name = (_split(f"//{host}").hostname or "").lower()
        if name in _LOOPBACK_NAMES or name == self.host.lower():
            return True
        if is_loopback(self.host):
            return False
        here = socket.gethostname().lower()
        return name in {here, f"{here}.local"} or _is_address(name)

    def refusal(self, headers: Mapping[str, str], token: str) -> str | None:
        """Return why a connection is refused, None if it is welcome. ``headers`` have lower-case names."""
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if not self.knows_host(host):
            return "this server does not go by that name"
        page = _split(origin)
        if page.scheme not in ("http", "https") or page.netloc.lower() != host.lower():
            return "the page comes from elsewhere"
        if self.token is not None and not hmac.compare_digest(
            self.token.encode(), token.encode(errors="backslashreplace")
        ):
            return "the token is missing or wrong"
        return None


_MAKE = "--token \"$(python -c 'import secrets; print(secrets.token_urlsafe())')\""


def is_loopback(host: str) -> bool:
    """Return whether an address or name to bind can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port  # raise ValueError too
    except ValueError:
        return urlsplit("")
    return parts


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
