from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from collabedit.datasets import catalogue, load_dataset, take
from collabedit.errors import DatasetError, InputError, RequestError, UnknownNameError

RECORDS = [{"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}]
BYTES = json.dumps(RECORDS).encode()


class _Server(HTTPServer):
    answers = 0
    body = BYTES
    announced = len(BYTES)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.answers += 1
        self.send_response(200 if self.path == "/zsre.json" else 404)
        self.send_header("Content-Length", str(self.server.announced))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[_Server]:
    """A local publisher of ``zsre``, and an empty cache."""
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        _publish(monkeypatch, url=f"http://127.0.0.1:{server.server_port}/zsre.json")
        yield server
        server.shutdown()
        thread.join()


def _publish(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    row = replace(catalogue.entry("zsre"), **changes)  # type: ignore[arg-type]
    monkeypatch.setitem(catalogue._DATASETS, "zsre", row)


def _cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "datasets").iterdir())


def test_worldfacts_comes_with_the_package() -> None:
    records = load_dataset("worldfacts")
    assert len(records) > 100
    for record in records:
        assert record.request.target_true not in (None, record.request.target_new)
        assert record.paraphrase_prompts
        assert record.neighborhood_prompts


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_loads_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"facts{suffix}"
    path.write_text("\n".join(map(json.dumps, RECORDS)) if suffix == ".jsonl" else BYTES.decode())
    for argument in (path, str(path)):
        (record,) = load_dataset(argument)
        assert record.request.text == "The capital of France is"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"cannot read the requests file nowhere\.json"):
        load_dataset("nowhere.json")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'wordfacts'.*worldfacts.*zsre.*json"):
        load_dataset("wordfacts")
    with pytest.raises(UnknownNameError, match="counterfact"):
        catalogue.fetch("counterfacts")


def test_a_download_is_kept_and_its_checksum_shown(
    publisher: _Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert catalogue.recorded_sha256("zsre") is None
    for _ in range(2):
        assert [r.request.subject for r in load_dataset("zsre")] == ["France"]
    assert publisher.answers == 1
    assert _cached(tmp_path) == ["zsre.json", "zsre.json.sha256"]
    digest = hashlib.sha256(BYTES).hexdigest()
    assert catalogue.recorded_sha256("zsre") == digest
    assert digest in capsys.readouterr().err


@pytest.mark.usefixtures("publisher")
def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    load_dataset("zsre")
    path = tmp_path / "datasets" / "zsre.json"
    path.write_bytes(BYTES + b" ")
    with pytest.raises(DatasetError, match=r"has SHA-256 .* delete it to download it again"):
        load_dataset("zsre")
    path.unlink()
    assert len(load_dataset("zsre")) == 1


@pytest.mark.usefixtures("publisher")
def test_a_file_without_a_checksum_is_trusted_once(tmp_path: Path) -> None:
    load_dataset("zsre")
    (tmp_path / "datasets" / "zsre.json.sha256").unlink()
    load_dataset("zsre")
    assert catalogue.recorded_sha256("zsre") == hashlib.sha256(BYTES).hexdigest()


@pytest.mark.usefixtures("publisher")
def test_a_pinned_checksum_is_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _publish(monkeypatch, sha256="0" * 64)
    with pytest.raises(DatasetError, match=r"expected 0000.*it was not kept"):
        load_dataset("zsre")
    assert _cached(tmp_path) == []
    _publish(monkeypatch, sha256=hashlib.sha256(BYTES).hexdigest())
    assert len(load_dataset("zsre")) == 1


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b'[{"prompt": "no subject"}]'])
def test_a_wrong_download_is_not_kept(publisher: _Server, tmp_path: Path, body: bytes) -> None:
    publisher.body, publisher.announced = body, len(body)
    with pytest.raises(DatasetError, match="did not deliver the data set") as caught:
        load_dataset("zsre")
    assert str(tmp_path) not in str(caught.value)
    assert _cached(tmp_path) == []


def test_an_incomplete_download_is_not_kept(publisher: _Server, tmp_path: Path) -> None:
    publisher.announced = len(BYTES) + 10
    with pytest.raises(DatasetError, match=f"after {len(BYTES)} of {len(BYTES) + 10} bytes"):
        load_dataset("zsre")
    assert _cached(tmp_path) == []


def test_an_offline_download_fails_with_a_remedy(
    publisher: _Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _publish(monkeypatch, url="http://127.0.0.1:9/zsre.json")
    with pytest.raises(DatasetError, match="give the path of a local copy") as caught:
        load_dataset("zsre")
    assert "\n" not in str(caught.value)
    _publish(monkeypatch, url=f"http://127.0.0.1:{publisher.server_port}/moved.json")
    with pytest.raises(DatasetError, match="404"):
        load_dataset("zsre")
    assert _cached(tmp_path) == []


def test_a_malformed_record_in_a_local_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[{"prompt": "no place", "subject": "France", "target": "Rome"}]')
    with pytest.raises(RequestError, match="record 0"):
        load_dataset(path)


def test_takes_the_first_records() -> None:
    records = load_dataset("worldfacts")
    assert take(records, 3) == records[:3]
    assert take(records, None) == take(records, 10**6) == records
    for limit in (0, -1):
        with pytest.raises(DatasetError, match="must be 1 or more"):
            take(records, limit)


def test_a_data_set_may_contradict_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("prompt,subject,target\n{} is,A,X\n{} is,A,Y\n")
    assert [record.request.target_new for record in load_dataset(path)] == ["X", "Y"]
    assert "1 contradiction, kept" in caplog.text
