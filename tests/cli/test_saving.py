"""Saving edited models: what commands refuse before any work, and what failures leave behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from collabedit.export.target import saved_files
from tests.cli.commands import collabedit, fails
from tests.conftest import CORPUS
from tests.export.saving import original


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model, a fact and quick settings."""
    original(tmp_path / "model")
    fact = {"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}
    (tmp_path / "facts.jsonl").write_text(json.dumps(fact))
    settings = {"layers": [1], "target_steps": 2, "prior_weight": 5.0}
    (tmp_path / "hp.json").write_text(json.dumps(settings))
    (tmp_path / "corpus.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    collect = ("stats", "collect", "--model", "model", "--layers", "1", "--tokens", 2000)
    collabedit(*collect, "--corpus", "corpus.txt", "-o", "cov.safetensors")
    return tmp_path


EDIT = ("edit", "--model", "model", "-r", "facts.jsonl", "--hparams", "hp.json")
ALL = (*EDIT, "-C", "cov.safetensors")


@pytest.mark.parametrize("out", [".", "..", "work", "link", "facts.jsonl", "dir.safetensors"])
def test_overwriting_other_files_is_refused_before_any_work(
    work: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "work" / "notes").mkdir(parents=True)
    (work / "work" / "notes" / "a.csv").write_text("precious")
    (work / "link").symlink_to(work / "model")
    (work / "dir.safetensors").mkdir()
    before = saved_files(work)
    monkeypatch.setattr("collabedit.models.load_model", None)  # reached, it would be a traceback
    assert out in fails(*ALL, "-o", out, "--overwrite")
    assert saved_files(work) == before


def test_a_read_only_cache_does_not_stop_an_edit(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLABEDIT_CACHE", "/proc/none")
    collabedit("models", "list")
    collabedit(*ALL, "-o", "edited")
    assert "model.safetensors" in saved_files(work / "edited")


def test_the_edits_of_a_failed_saving_are_applied_as_the_message_says(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = saved_files(work)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        error = fails(*ALL, "-o", "edited")
    assert "No space left on device" in error
    found = re.search(r"collabedit apply (\S+) -o DIR", error)
    assert found is not None
    kept = Path(found[1])
    assert sorted({*before, kept.name}) == saved_files(work)
    collabedit("apply", kept, "-o", "edited")
    assert kept.exists()
    collabedit(*ALL, "-o", "again")
    for name in ("model.safetensors", "config.json", "LICENSE"):
        assert (work / "edited" / name).read_bytes() == (work / "again" / name).read_bytes()
    assert not (work / "again.delta.safetensors").exists()
