"""Where the page is served, and the message without the extra."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from collabedit.errors import InputError
from collabedit.ui import server
from tests.cli.commands import fails


def test_a_port_is_free_or_refused_by_name() -> None:
    assert server.free_port() > 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port: {port} is taken"):
            server.free_port(port)


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "find_spec", lambda _: None)
    assert 'pip install "collabedit[ui]"' in fails("ui", "--no-open")


def test_it_is_served_only_on_the_loopback_interface(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nicegui = pytest.importorskip("nicegui")
    given: dict[str, object] = {}
    monkeypatch.setattr(nicegui.ui, "run", lambda root, **options: given.update(options))
    monkeypatch.setattr(
        nicegui.app, "add_middleware", lambda kind, **options: given.update(options)
    )
    for name in ("on_startup", "on_shutdown"):
        monkeypatch.setattr(nicegui.app, name, lambda handler: None)
    monkeypatch.setattr(nicegui.app, "get", lambda path: lambda function: function)
    for _ in range(2):
        server.serve(tmp_path, open_browser=False)
        assert given["host"] == "127.0.0.1"
        assert given["show"] is False
        assert "on_air" not in given
        assert len(str(given["token"])) > 40
        tokens = given.setdefault("tokens", set())
        assert isinstance(tokens, set)
        tokens.add(given["token"])
    assert len(tokens) == 2
