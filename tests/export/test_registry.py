"""The registry of export formats, and one that a user adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from collabedit.errors import InputError, RoundError, UnknownNameError
from collabedit.export import Base, ExportJob, export_format, export_formats, registry
from collabedit.export import resolve_format as resolve
from collabedit.messages import Delta
from tests.export.saving import load, original, random_delta


def job(folder: Path, out: str, family: str = "llama") -> ExportJob:
    source = original(folder / "original", family)
    return ExportJob(Base.of(random_delta(load(source)), str(source)), folder / out)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FORMATS", registry._FORMATS.copy())


@pytest.mark.usefixtures("added")
def test_a_format_is_a_decorated_function(tmp_path: Path) -> None:
    @export_format("names", suffix=".txt")
    def names(job: ExportJob, *, upper: bool = False) -> list[str]:
        """The names of the edited weights, one per line."""
        text = "\n".join(job.delta.changes)
        job.out.write_text(text.upper() if upper else text)
        return ["written"]

    found = resolve(None, tmp_path / "out.txt")
    assert found in export_formats()
    assert found.summary == "The names of the edited weights, one per line."
    assert found.options == {"upper": False}
    task = job(tmp_path, "out.txt")
    assert found.export(task, {"upper": True}) == ["written"]
    assert task.out.read_text().splitlines() == [name.upper() for name in task.delta.changes]
    with pytest.raises(InputError, match="--to names has no option --rank; its options: --upper"):
        found.check_options(["rank"])


@pytest.mark.parametrize(
    ("name", "out", "expected"),
    [
        (None, "x.gguf", "gguf"),
        (None, "x.safetensors", "delta"),
        (None, "x", "model"),
        ("LoRA", "x.gguf", "lora"),
    ],
)
def test_the_format_follows_from_the_name_of_the_output(
    name: str | None, out: str, expected: str
) -> None:
    assert resolve(name, Path(out)).name == expected


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"choose one of: .*lora"):
        resolve("onnx", Path("x"))


def test_a_delta_of_another_model_is_refused(tmp_path: Path) -> None:
    delta = random_delta(load(original(tmp_path / "llama")))
    with pytest.raises(RoundError, match=r"has no such weight: name the model .* --model"):
        Base.of(delta, str(original(tmp_path / "gpt2", "gpt2")))


def test_a_delta_is_exported_in_the_current_version(tmp_path: Path) -> None:
    task = job(tmp_path, "d.safetensors")
    resolve("delta", task.out).export(task)
    assert Delta.load(task.out).sha256 == task.delta.sha256
