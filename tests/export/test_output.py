"""The suffix of a path says what is written there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collabedit.errors import InputError
from collabedit.export import Output
from collabedit.messages import Delta
from tests.export.saving import load, original, random_delta


def test_a_delta_alone_is_written_to_a_safetensors_file(tmp_path: Path) -> None:
    model = load(original(tmp_path / "model"))
    delta = random_delta(model)
    output = Output(tmp_path / "delta.safetensors")
    output.check(model.name)
    output.check_room(model)
    output.save(model, delta)
    assert Delta.load(output.path).sha256 == delta.sha256


def test_another_path_is_a_directory_for_the_model(tmp_path: Path) -> None:
    model = load(original(tmp_path / "model"))
    delta = random_delta(model)
    output = Output(tmp_path / "edited")
    (name, change), *_ = delta.changes.items()
    before = model.weight(name).clone()
    output.check_room(model)
    output.save(model, delta)
    moved = load(output.path).weight(name) - before
    torch.testing.assert_close(moved, change.dense().to(moved), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["full", "x.gguf", "full.safetensors"])
def test_what_cannot_be_written_is_found_before_a_model_is_loaded(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").write_text("of someone else")
    (tmp_path / "full.safetensors").mkdir()
    (tmp_path / "x.gguf").write_bytes(b"")
    with pytest.raises(InputError):
        Output(tmp_path / name).check(str(tmp_path / "no-model"))
