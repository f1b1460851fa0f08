"""Undoing edits: bit for bit, and refused if that is impossible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from collabedit.errors import CollabEditError, InputError, ModelError
from collabedit.export import revert_model, save_edited_model
from collabedit.export.target import saved_files
from collabedit.export.undo import UNDO, _difference, _restored
from collabedit.parties import apply_delta
from tests.conftest import FAMILIES
from tests.export.saving import LEFT_OUT, load, original, random_delta

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_file_is_restored(tmp_path: Path, family: str, shards: bool, applied: bool) -> None:
    source = original(tmp_path / "original", family, shards=shards)
    (source / "README.md").write_text("---\nlicense: mit\n---\nthe original's card")
    before = {name: (source / name).read_bytes() for name in saved_files(source)}
    model = load(source)
    delta = random_delta(model)
    if applied:
        apply_delta(model, delta)
    save_edited_model(model, delta, tmp_path / "edited", applied=applied)
    assert "license: mit" in (tmp_path / "edited" / "README.md").read_text()
    count = revert_model(tmp_path / "edited", tmp_path / "back")
    assert count == len(delta.changes)
    back = tmp_path / "back"
    assert set(saved_files(back)) == set(before) - set(LEFT_OUT)
    for name in saved_files(back):
        assert (back / name).read_bytes() == before[name], name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_of_another_type_than_its_files_is_restored(
    tmp_path: Path, family: str, dtype: str
) -> None:
    source = original(tmp_path / "original", family)
    model = load(source, dtype)
    before = {name: value.clone() for name, value in model.hf.named_parameters()}
    save_edited_model(model, random_delta(model), tmp_path / "edited")
    revert_model(tmp_path / "edited", tmp_path / "back")
    unedited = load(tmp_path / "back", dtype)
    for name, value in unedited.hf.named_parameters():
        assert torch.equal(value, before[name]), name


def edited(folder: Path) -> Path:
    model = load(original(folder / "original"))
    save_edited_model(model, random_delta(model), folder / "edited")
    return folder / "edited"


def test_a_model_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    model = edited(tmp_path)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] += 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj\.weight was changed after"):
        revert_model(model, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_model_without_undo_data_is_refused(tmp_path: Path) -> None:
    model = edited(tmp_path)
    (model / UNDO).unlink()
    with pytest.raises(InputError, match="has no data to undo its edits"):
        revert_model(model, tmp_path / "back")
    with pytest.raises(InputError, match="is not a model that collabedit edited"):
        revert_model(tmp_path / "original", tmp_path / "back")


def test_the_edited_model_is_not_replaced_by_its_base(tmp_path: Path) -> None:
    model = edited(tmp_path)
    with pytest.raises(InputError, match="is or holds the edited model"):
        revert_model(model, model, overwrite=True)


def test_a_damaged_record_gives_one_error(tmp_path: Path) -> None:
    model = edited(tmp_path)
    content = bytearray((model / UNDO).read_bytes())
    generator = numpy.random.default_rng(0)
    for number in range(60):
        broken = content[:]
        for position in generator.integers(0, len(content), 3):
            broken[position] ^= int(generator.integers(1, 256))
        (model / UNDO).write_bytes(broken)
        with pytest.raises(CollabEditError):
            revert_model(model, tmp_path / f"back{number}")
        assert not (tmp_path / f"back{number}").exists()


def test_undoing_a_second_edit_restores_the_first(tmp_path: Path) -> None:
    first = edited(tmp_path)
    model = load(first)
    save_edited_model(model, random_delta(model), tmp_path / "twice")
    revert_model(tmp_path / "twice", tmp_path / "back")
    name = "model.safetensors"
    assert (tmp_path / "back" / name).read_bytes() == (first / name).read_bytes()
    record = json.loads((tmp_path / "twice" / "collabedit.json").read_text())
    assert UNDO in record["files"]
    shutil.rmtree(tmp_path / "back")


bits = st.binary(min_size=0, max_size=160)


@given(before=bits, after=bits, dtype=st.sampled_from(DTYPES))
def test_any_bits_are_restored(before: bytes, after: bytes, dtype: torch.dtype) -> None:
    """Including NaNs, infinities and zeros of either sign."""
    size = min(len(before), len(after)) // 8 * 8
    if size == 0:
        return
    one, other = (
        torch.frombuffer(bytearray(raw[:size]), dtype=torch.uint8).view(dtype)
        for raw in (before, after)
    )
    back = _restored(other, _difference(one, other))
    assert torch.equal(back.view(torch.uint8), one.view(torch.uint8))


@given(packed=st.binary(min_size=1, max_size=200))
def test_foreign_bytes_give_one_error(packed: bytes) -> None:
    content = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
    with pytest.raises(InputError):
        _restored(torch.zeros(64), content)


def test_small_edits_of_half_precision_take_little_room(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 1024, generator=generator)
    change = 0.01 * torch.randn(256, 1024, generator=generator)
    before, after = weight.bfloat16(), (weight + change).bfloat16()
    assert len(_difference(before, after)) < 0.4 * 2 * weight.numel()
