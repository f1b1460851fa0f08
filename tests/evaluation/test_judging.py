"""A judge behind an OpenAI-compatible address, played by a local server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from collabedit.errors import InputError
from collabedit.evaluation.judging import KEY_VARIABLE, OpenAIJudge, Question

ASKED = Question("Who makes it?", ("Ford", "Ford Motor"), "Ford does.")


class Server(HTTPServer):
    replies: list[Any]
    seen: list[tuple[str, dict[str, Any], str | None]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body, self.headers["Authorization"]))
        reply = json.dumps(self.server.replies.pop(0)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.replies, server.seen = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def says(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def judge(server: Server) -> OpenAIJudge:
    return OpenAIJudge(f"http://127.0.0.1:{server.server_port}/v1/", "tiny")


def test_the_first_word_is_the_verdict(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    server.replies = [says("**Yes**, it does."), says("no")]
    assert judge(server).grade([ASKED, ASKED]) == [True, False]
    path, body, key = server.seen[0]
    assert (path, body["model"], key) == ("/v1/chat/completions", "tiny", "Bearer secret")
    prompt = body["messages"][-1]["content"]
    assert all(part in prompt for part in ("Who makes it?", "Ford / Ford Motor", "Ford does."))


@pytest.mark.parametrize("reply", [says("Perhaps."), {"error": "no"}, says("Yesterday")])
def test_other_replies_are_refused(server: Server, reply: dict[str, Any]) -> None:
    server.replies = [reply]
    with pytest.raises(InputError, match=r"judge|OpenAI-compatible"):
        judge(server).grade([ASKED])


def test_an_unreachable_judge_is_an_error() -> None:
    with pytest.raises(InputError, match="does not answer"):
        OpenAIJudge("http://127.0.0.1:9/v1").grade([ASKED])
    with pytest.raises(InputError, match="must begin with"):
        OpenAIJudge("file:///etc/passwd").grade([ASKED])
