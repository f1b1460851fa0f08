"""Who gets in: the token, the cookie, the host and the origin of a request."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from collabedit.ui.access import Access, address

PORT, TOKEN = 8123, "secret-token"
COOKIE = f"collabedit_{PORT}={TOKEN}"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def asked(
    kind: str = "http",
    *,
    query: str = "",
    host: str = f"127.0.0.1:{PORT}",
    cookie: str = "",
    origin: str = "",
    path: str = "/",
) -> list[MutableMapping[str, Any]]:
    """Everything that the server sends in response to a request."""
    headers = [(b"host", host.encode())]
    headers += [(b"cookie", cookie.encode())] * bool(cookie)
    headers += [(b"origin", origin.encode())] * bool(origin)
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": headers}
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {}

    asyncio.run(Access(_app, token=TOKEN, port=PORT)(scope, receive, send))
    return sent


def status(**request: Any) -> int:
    return int(asked(**request)[0]["status"])


def test_without_token_or_cookie_nobody_gets_in() -> None:
    first, body = asked()
    assert first["status"] == 403
    assert b"collabedit ui" in body["body"]
    assert status(path="/_nicegui/static/nicegui.js") == 403
    assert status(path="/report", query="run=x") == 403
    for wrong in ("", "secret", TOKEN + "x", "ü"):
        assert status(query=f"token={wrong}") == 403
        assert status(cookie=f"collabedit_{PORT}={wrong}") == 403
    assert status(cookie=f"collabedit_{PORT + 1}={TOKEN}") == 403


def test_the_token_becomes_a_cookie_and_leaves_the_address() -> None:
    assert address(PORT, TOKEN) == f"http://127.0.0.1:{PORT}/?token={TOKEN}"
    (first, _) = asked(query=f"token={TOKEN}")
    headers = dict(first["headers"])
    assert first["status"] == 303
    assert headers[b"location"] == b"/"
    cookie = headers[b"set-cookie"].decode()
    assert cookie == f"{COOKIE}; Path=/; HttpOnly; SameSite=Strict"
    assert status(cookie=COOKIE) == 200


def test_the_browser_may_load_from_and_send_to_nothing_else() -> None:
    headers = dict(asked(cookie=COOKIE)[0]["headers"])
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert f"connect-src 'self' ws://127.0.0.1:{PORT}" in policy
    assert "http:" not in policy
    assert "https:" not in policy
    assert headers[b"referrer-policy"] == b"no-referrer"


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1:1", ""])
def test_foreign_host_names_are_refused(host: str) -> None:
    assert status(cookie=COOKIE, host=host) == 403
    assert status(query=f"token={TOKEN}", host=host) == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
def test_pages_of_other_sites_are_refused(origin: str) -> None:
    assert status(cookie=COOKIE, origin=origin) == 403
    assert asked("websocket", cookie=COOKIE, origin=origin)[0]["type"] == "websocket.close"


def test_sockets_need_the_cookie() -> None:
    assert asked("websocket")[0] == {"type": "websocket.close", "code": 1008}
    closed = asked("websocket", query=f"token={TOKEN}")
    assert closed[0]["type"] == "websocket.close"
    here = f"http://127.0.0.1:{PORT}"
    assert asked("websocket", cookie=COOKIE, origin=here)[0]["type"] == "websocket.accept"
