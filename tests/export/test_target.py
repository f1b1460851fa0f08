"""What a saved model may replace, and what is left if that fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from collabedit.errors import InputError
from collabedit.export.model_directory import check_output_directory
from collabedit.export.target import replacement, saved_files

MODEL = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in MODEL:
        (folder / name).write_text(name)
    return folder


def refused(path: Path, reason: str) -> None:
    before = saved_files(path.parent)
    with pytest.raises(InputError, match=reason):
        check_output_directory(path, overwrite=True)
    with pytest.raises(InputError, match=reason), replacement(path, overwrite=True) as staged:
        (staged / "new").write_text("new")
    assert saved_files(path.parent) == before


@pytest.mark.parametrize("name", ["thesis.txt", "notes/a.csv", ".git/HEAD", "modeling.py"])
def test_a_directory_with_anything_else_stays(model: Path, name: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("precious")
    refused(model, name)


def test_a_directory_without_weights_stays(model: Path) -> None:
    (model / "model.safetensors").unlink()
    refused(model, "config.json, which is not part of a saved model")


def test_only_what_the_record_lists_is_replaced(model: Path) -> None:
    (model / "LICENSE").write_text("free")
    (model / "collabedit.json").write_text('{"files": ["LICENSE", "config.json"]}')
    check_output_directory(model, overwrite=True)
    (model / "NOTES").write_text("mine")
    refused(model, "NOTES")


@pytest.mark.parametrize("record", ["[1]", "{", '{"files": 3}', '{"files": [["NOTES"]]}'])
def test_a_damaged_record_lists_nothing(model: Path, record: str) -> None:
    (model / "collabedit.json").write_text(record)
    check_output_directory(model, overwrite=True)
    (model / "NOTES").write_text("mine")
    refused(model, "NOTES")


def test_links_and_their_targets_stay(model: Path) -> None:
    link = model.parent / "link"
    link.symlink_to(model, target_is_directory=True)
    refused(link, "is a link")
    dangling = model.parent / "dangling"
    dangling.symlink_to(model.parent / "nowhere")
    refused(dangling, "is a link")
    link.unlink()
    (model / "merges.txt").symlink_to(model / "config.json")
    refused(model, r"merges\.txt")


def test_the_working_directory_home_and_their_parents_stay(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = model / "inside"
    inside.mkdir()
    monkeypatch.setenv("HOME", str(model))
    for path in (model, model.parent):
        refused(path, "the working directory, your home directory or above")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.chdir(inside)
    for path in (Path(), Path(".."), inside, model, Path("/")):
        with pytest.raises(InputError, match="the working directory"):
            check_output_directory(path, overwrite=True)
    assert saved_files(model) == sorted(MODEL)


def test_an_empty_working_directory_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a directory for the model only"):
        check_output_directory(".")


def test_a_model_is_replaced_only_if_asked(model: Path) -> None:
    with pytest.raises(InputError, match="not empty"):
        check_output_directory(model)
    with replacement(model, overwrite=True) as staged:
        (staged / "new").write_text("new")
        assert saved_files(model) == sorted(MODEL)
    assert saved_files(model.parent) == ["model/new"]


def test_the_old_model_stays_when_the_new_one_fails(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="absent"), replacement(model, overwrite=True) as staged:
        (staged / "absent").read_text()
    assert saved_files(model.parent) == [f"model/{name}" for name in sorted(MODEL)]
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if to == model and self.name == "model" and (self / "new").exists():
            raise OSError(28, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space"), replacement(model, overwrite=True) as staged:
        (staged / "new").write_text("new")
    assert saved_files(model.parent) == [f"model/{name}" for name in sorted(MODEL)]


def test_files_that_appear_during_writing_stay(model: Path) -> None:
    with pytest.raises(InputError, match=r"late\.txt"), replacement(model, overwrite=True):
        (model / "late.txt").write_text("precious")
    assert (model / "late.txt").read_text() == "precious"


def test_files_and_unwritable_directories_are_refused(model: Path) -> None:
    with pytest.raises(InputError, match="is a file"):
        check_output_directory(model / "config.json", overwrite=True)
    for path in (model / "config.json" / "out", Path("/proc/none/out")):
        with pytest.raises(InputError, match="cannot write"):
            check_output_directory(path)
    shutil.rmtree(model)
    check_output_directory(str(model / "deep" / "er"))
    assert not model.exists()
