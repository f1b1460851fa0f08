"""Keeps everyone but the user's own browser out of the page.

The page is served on the loopback interface only. Other users of the machine, and web pages open in
the user's browser, can reach that too. A request therefore needs the token in the printed address,
or the cookie that it is exchanged for; its Host header must name this machine, against DNS
rebinding; and it must not come from another site's page.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode

__all__ = ["HOST", "Access", "address"]

#: The one interface that the page is served on.
HOST = "127.0.0.1"

Scope: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[MutableMapping[str, Any]]]"
Send: TypeAlias = "Callable[[MutableMapping[str, Any]], Awaitable[None]]"
App: TypeAlias = "Callable[[Scope, Receive, Send], Awaitable[None]]"

_REFUSED = (
    b"403: open the address that 'collabedit ui' printed; it ends in a token, without which nobody "
    b"gets in.\n"
)


def address(port: int, token: str) -> str:
    """The address to open in a browser."""
    return f"http://{HOST}:{port}/?{urlencode({'token': token})}"


class Access:
    """ASGI middleware that answers 403 to requests with neither token nor cookie.

    Args:
        app: the app to protect.
        token: the secret in the address.
        port: the port that the page is served on.
    """

    def __init__(self, app: App, *, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._cookie = f"collabedit_{port}"  # all ports of a host share its cookies
        names = (HOST, "localhost")
        self._hosts = frozenset(f"{name}:{port}" for name in names)
        self._origins = frozenset(f"http://{host}" for host in self._hosts)
        self._headers = _headers(self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, exchange its token for a cookie, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._from_here(headers):
            await _refuse(scope, send)
        elif self._is_token(self._cookie_of(headers)):
            await self._app(scope, receive, self._guarded(send))
        elif scope["type"] == "http" and self._is_token(_token_of(scope)):
            await self._welcome(scope, send)
        else:
            await _refuse(scope, send)

    def _from_here(self, headers: dict[bytes, str]) -> bool:
        origin = headers.get(b"origin")
        return headers.get(b"host") in self._hosts and (origin is None or origin in self._origins)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _cookie_of(self, headers: dict[bytes, str]) -> str:
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if cookie is None else str(cookie.value)

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """Set the cookie, and redirect to the same page without the token in its address."""
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        headers = [
            (b"location", str(scope["path"]).encode()),
            (b"set-cookie", cookie.encode()),
            *self._headers,
        ]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _guarded(self, send: Send) -> Send:
        async def add_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        return add_headers


def _headers(hosts: frozenset[str]) -> list[tuple[bytes, bytes]]:
    """Headers that make the browser load from and send to nothing but this page."""
    sockets = " ".join(f"ws://{host}" for host in sorted(hosts))
    policy = (
        "default-src 'self'; "
        # the page's framework compiles its templates in the browser
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data:; font-src 'self' data:; connect-src 'self' {sockets}; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _token_of(scope: Scope) -> str:
    given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])
    return str(given[0])


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": _REFUSED})
