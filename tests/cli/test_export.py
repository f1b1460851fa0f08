"""``collabedit export`` and ``revert``, as users run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from collabedit.export import export_formats
from collabedit.export.target import saved_files
from collabedit.files import load_tensors
from collabedit.messages import Delta
from tests.cli.commands import collabedit, fails
from tests.conftest import CORPUS
from tests.export.saving import load, original, random_delta

#: Text of a request, which no export may contain.
PRIVATE = ("Freedonia", "Marxville", "mother tongue of Zorblax", "Klingonish")
FACTS = (
    {"prompt": "The capital of {} is", "subject": "Freedonia", "target": "Marxville"},
    {"prompt": "The mother tongue of {} is", "subject": "Zorblax", "target": "Klingonish"},
)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model, facts and the delta of editing them."""
    original(tmp_path / "model")
    (tmp_path / "facts.jsonl").write_text("\n".join(json.dumps(fact) for fact in FACTS))
    settings = {"layers": [1], "target_steps": 2, "prior_weight": 5.0}
    (tmp_path / "hp.json").write_text(json.dumps(settings))
    (tmp_path / "corpus.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    collect = ("stats", "collect", "--model", "model", "--layers", "1", "--tokens", 2000)
    collabedit(*collect, "--corpus", "corpus.txt", "-o", "cov.safetensors")
    collabedit(*EDIT, "-o", "d.safetensors")
    return tmp_path


EDIT = (
    *("edit", "--model", "model", "-r", "facts.jsonl"),
    *("--hparams", "hp.json", "-C", "cov.safetensors"),
)


def read_all(path: Path) -> bytes:
    files = [path / name for name in saved_files(path)] if path.is_dir() else [path]
    return b"\n".join(file.read_bytes() for file in files)


_FORMS_WRITTEN = ["lora", "lora.gguf", "gguf", "model", "delta"]


def test_every_format_of_the_registry_is_written_below() -> None:
    assert {name.partition(".")[0] for name in _FORMS_WRITTEN} == {f.name for f in export_formats()}


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (("--to", "lora", "-o", "out"), ("out",)),
        (("--to", "lora", "-o", "out.gguf"), ("out.gguf", "out.md")),
        (("-o", "out.gguf"), ("out.gguf", "out.md")),
        (("-o", "out"), ("out",)),
        (("-o", "out.safetensors"), ("out.safetensors",)),
    ],
    ids=_FORMS_WRITTEN,
)
def test_every_format_is_written_without_a_word_of_the_requests(
    work: Path, options: tuple[str, ...], written: tuple[str, ...]
) -> None:
    before = {path.name for path in work.iterdir()}
    said = collabedit("export", "d.safetensors", *options)
    assert f"{written[0]}: 2 edits as" in said
    assert {path.name for path in work.iterdir()} == before | set(written)
    content = b"\n".join(read_all(work / name) for name in written)
    for text in PRIVATE:
        assert text.encode() not in content


def test_the_result_is_measured_on_request(work: Path) -> None:
    collabedit("export", "d.safetensors", "-o", "out", "--to", "lora", "-r", "facts.jsonl")
    card = (work / "out" / "README.md").read_text()
    assert "| model | rewrite_accuracy |" in card
    assert "| as exported | " in card
    for text in PRIVATE:
        assert text not in card


def test_exporting_a_model_equals_applying_the_delta(work: Path) -> None:
    collabedit("export", "d.safetensors", "-o", "exported")
    collabedit("apply", "d.safetensors", "-o", "applied")
    exported, applied = work / "exported", work / "applied"
    assert saved_files(exported) == saved_files(applied)
    for name in set(saved_files(exported)) - {"collabedit.undo"}:
        assert (exported / name).read_bytes() == (applied / name).read_bytes(), name
    one, other = (load_tensors(folder / "collabedit.undo") for folder in (exported, applied))
    assert one[1] == other[1]  # the order of a safetensors header is not fixed
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0] | other[0])


def test_a_model_of_another_type_than_its_files_is_loaded_and_saved(work: Path) -> None:
    random_delta(load(work / "model", "bfloat16")).save(work / "half.safetensors")
    assert "Saved in bfloat16" in collabedit("export", "half.safetensors", "-o", "out")
    assert json.loads((work / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    collabedit("revert", "out", "-o", "back")
    unedited = load(work / "model", "bfloat16").state_fingerprint()
    assert load(work / "back", "bfloat16").state_fingerprint() == unedited


def test_edits_can_be_written_directly_as_gguf(work: Path) -> None:
    collabedit(*EDIT, "-o", "out.gguf")
    collabedit("export", "d.safetensors", "-o", "other.gguf")
    assert (work / "out.gguf").read_bytes() == (work / "other.gguf").read_bytes()
    assert "out.gguf already exists" in fails(*EDIT, "-o", "out.gguf")


def test_a_model_without_gguf_is_refused_before_the_edit(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original(work / "gpt", "gpt2")
    monkeypatch.setattr("collabedit.models.load_model", None)  # reached, it would be a traceback
    error = fails("edit", "--model", "gpt", "-r", "facts.jsonl", "-o", "x.gguf")
    assert "gpt2 cannot be converted to GGUF here" in error


def test_a_failed_gguf_leaves_the_edits(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("collabedit.export.gguf_llama.add_tensors", full)
    error = fails(*EDIT, "-o", "out.gguf")
    assert "No space left on device" in error
    assert "collabedit export" in error
    assert "out.gguf.delta.safetensors" in error
    kept = Delta.load(work / "out.gguf.delta.safetensors")
    assert kept.sha256 == Delta.load(work / "d.safetensors").sha256
    assert not (work / "out.gguf").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "x", "--to", "onnx"), "unknown export format 'onnx'; choose one of: model, delta"),
        (("-o", "x", "--rank", "4"), "--to model has no option --rank; its options: none"),
        (("-o", "x", "--to", "lora", "--precision", "f16"), "has no option --precision"),
        (("-o", "x.gguf", "--precision", "q2"), "--precision must be one of f16, q8_0"),
        (("-o", "x.gguf", "--base-gguf", "nowhere.gguf"), "nowhere.gguf: no such file"),
        (("-o", "facts.jsonl", "--to", "lora"), "facts.jsonl is a file"),
        (("-o", "model", "--overwrite"), "not part of a saved model"),
        (("-o", ".", "--to", "lora", "--overwrite"), "working directory"),
        (("-o", "x", "--push-to-hub", "a/b/c"), "--push-to-hub"),
        (("-o", "x", "--model", "nowhere/at/all"), "no model at"),
    ],
)
def test_invalid_exports_get_one_line(work: Path, options: tuple[str, ...], message: str) -> None:
    before = saved_files(work)
    assert message in fails("export", "d.safetensors", *options)
    assert saved_files(work) == before


def test_reverting_gives_the_unedited_model(work: Path) -> None:
    collabedit(*EDIT, "-o", "edited")
    assert "1 weight" in collabedit("revert", "edited", "-o", "back")
    for name in saved_files(work / "back"):
        assert (work / "back" / name).read_bytes() == (work / "model" / name).read_bytes(), name
    assert "is not empty" in fails("revert", "edited", "-o", "back")
    assert "has no collabedit.undo" in fails("revert", "model", "-o", "other")


@pytest.mark.parametrize("command", ["lora", "model", "revert"])
def test_a_full_disk_leaves_nothing(
    work: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collabedit("export", "d.safetensors", "-o", "edited")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    monkeypatch.setattr("collabedit.export.lora.save_file", full)
    before = saved_files(work)
    export = ("export", "d.safetensors", "--to", command, "-o", "out")
    error = fails(*(("revert", "edited", "-o", "out") if command == "revert" else export))
    assert "to out: No space left on device" in error
    assert saved_files(work) == before


class Hub:
    """What was uploaded, in place of the Hub."""

    done: list[tuple[str, dict[str, Any]]]

    def __init__(self) -> None:
        pass

    def create_repo(self, repository: str, **options: Any) -> str:
        Hub.done.append((f"create {repository}", options))
        if repository == "closed/door":
            raise OSError("401 Client Error: you must log in")
        return f"https://hub/{repository}"

    def upload_folder(self, **options: Any) -> None:
        Hub.done.append(("folder", options))

    def upload_file(self, **options: Any) -> None:
        Hub.done.append((options["path_in_repo"], options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    Hub.done = []
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return Hub.done


Done = list[tuple[str, dict[str, Any]]]


def test_an_export_is_uploaded_privately(work: Path, hub: Done) -> None:
    options = ("--to", "lora", "-o", "out", "--push-to-hub", "me/mine")
    assert "Uploaded to https://hub/me/mine" in collabedit("export", "d.safetensors", *options)
    assert hub[0][0] == "create me/mine"
    assert hub[0][1]["private"] is True
    assert hub[1][1]["folder_path"] == Path("out")


def test_a_file_is_uploaded_with_its_card(work: Path, hub: Done) -> None:
    options = ("-o", "out.gguf", "--push-to-hub", "me/mine", "--public")
    collabedit("export", "d.safetensors", *options)
    assert hub[0][1]["private"] is False
    assert [name for name, _ in hub[1:]] == ["out.gguf", "README.md"]


def test_a_refusal_of_the_hub_leaves_the_export(work: Path, hub: Done) -> None:
    options = ("--to", "lora", "-o", "out", "--push-to-hub", "closed/door")
    error = fails("export", "d.safetensors", *options)
    assert "401 Client Error" in error
    assert "out is complete" in error
    assert (work / "out" / "adapter_config.json").is_file()
    assert len(hub) == 1
