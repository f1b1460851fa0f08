"""GGUF files: written by us, read by the reader of ``gguf`` and by ``transformers``."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch

from collabedit.algebra import LowRankUpdate
from collabedit.errors import CollabEditError, InputError, ModelError
from collabedit.export import Base, ExportJob, export_gguf, export_lora
from collabedit.export.gguf_file import open_gguf, tensor_names
from collabedit.messages import Delta
from collabedit.models import load_model
from tests.conftest import CORPUS, make_model, save_model
from tests.export.saving import load, random_delta

Q8_0 = gguf.GGMLQuantizationType.Q8_0
DOWN = "blk.1.ffn_down.weight"


def directory(folder: Path, family: str = "llama", **changes: Any) -> Path:
    model = make_model(family, **changes)
    save_model(model, folder)
    return folder


def job(folder: Path, out: str, delta: Delta | None = None, **changes: Any) -> ExportJob:
    source = folder / "model"
    if not source.is_dir():
        directory(source, **changes)
    return ExportJob(Base.of(delta or random_delta(load(source)), str(source)), folder / out)


def unedited(folder: Path, **options: Any) -> Path:
    """A base file: the conversion of an empty change."""
    delta = random_delta(load(folder / "model"))
    nothing = {
        name: LowRankUpdate(0 * change.left, change.right) for name, change in delta.changes.items()
    }
    export_gguf(job(folder, "base.gguf", Delta(delta.metadata, nothing)), **options)
    return folder / "base.gguf"


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in open_gguf(path).tensors}


def dense(tensor: Any) -> Any:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_reads_the_edited_llama(
    tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache"))
    task = job(tmp_path, "x.gguf", tie_word_embeddings=tied, head_dim=8)
    notes = export_gguf(task)
    assert notes == ["All matrices are stored as F16", "Converted from the model's directory"]
    model = load(tmp_path / "model")
    model.apply_(task.delta.changes)
    found = load_model(str(tmp_path / "x.gguf"), device="cpu")
    assert found.structure.tied_head is tied
    for name, value in model.hf.named_parameters():
        rounded = value.half().float() if value.ndim > 1 else value
        assert torch.equal(found.hf.get_parameter(name), rounded), name
    for text in CORPUS:
        assert found.tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    assert found.tokenizer.eos_token == model.tokenizer.eos_token


def test_only_the_edited_tensors_of_the_base_file_change(tmp_path: Path) -> None:
    task = job(tmp_path, "x.gguf")
    base = unedited(tmp_path)
    notes = export_gguf(task, base_gguf=base)
    assert "The 2 edited weights are stored as F16" in notes[0]
    before, after = tensors(base), tensors(task.out)
    assert list(before) == list(after)
    changed = [
        name for name in before if not numpy.array_equal(before[name].data, after[name].data)
    ]
    assert changed == [DOWN, "blk.2.ffn_down.weight"]
    expected = task.base.edited(next(iter(task.delta.changes))).half()
    assert numpy.array_equal(after[DOWN].data, expected.numpy())
    ours, theirs = open_gguf(base).fields, open_gguf(task.out).fields
    assert {
        name: field.contents() for name, field in theirs.items() if "tensor_count" not in name
    } == {name: field.contents() for name, field in ours.items() if "tensor_count" not in name} | {
        "collabedit.delta_sha256": theirs["collabedit.delta_sha256"].contents()
    }


def test_a_patched_file_is_the_converted_one(tmp_path: Path) -> None:
    """Two ways to the same file."""
    export_gguf(job(tmp_path, "x.gguf"))
    export_gguf(job(tmp_path, "y.gguf"), base_gguf=unedited(tmp_path))
    one, other = tensors(tmp_path / "x.gguf"), tensors(tmp_path / "y.gguf")
    assert all(numpy.array_equal(one[name].data, other[name].data) for name in one)


def test_edited_weights_stay_fine_in_a_coarse_file(tmp_path: Path) -> None:
    task = job(tmp_path, "x.gguf", intermediate_size=64)
    base = unedited(tmp_path, precision="q8_0")
    assert tensors(base)[DOWN].tensor_type == Q8_0
    export_gguf(task, base_gguf=base)
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors(task.out).items()}
    assert kinds[DOWN] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_all_weights_take_the_requested_precision(tmp_path: Path) -> None:
    task = job(tmp_path, "x.gguf", intermediate_size=64)
    base = unedited(tmp_path)
    export_gguf(task, base_gguf=base, precision="Q8_0", all_weights=True)
    found = tensors(task.out)
    assert {t.tensor_type.name for t in found.values() if t.data.ndim > 1} == {"Q8_0"}
    name = next(iter(task.delta.changes))
    exact = task.base.edited(name).numpy()
    step = numpy.abs(exact).reshape(32, -1, 32).max(-1, keepdims=True) / 127
    apart = numpy.abs(dense(found[DOWN]) - exact).reshape(32, -1, 32)
    assert (apart <= 0.51 * step + 1e-3 * numpy.abs(exact).max()).all()
    assert open_gguf(task.out).fields["general.file_type"].contents() == 7


def test_the_card_is_written_beside_and_nothing_is_replaced(tmp_path: Path) -> None:
    task = job(tmp_path, "x.gguf")
    export_gguf(task)
    assert "# model, edited" in (tmp_path / "x.md").read_text()
    with pytest.raises(InputError, match=r"x\.gguf already exists; .* --overwrite"):
        export_gguf(task)
    export_gguf(replace(task, overwrite=True))


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    task = job(tmp_path, "x.gguf")
    with pytest.raises(InputError, match="--precision must be one of f16, q8_0, not 'q4_1'"):
        export_gguf(task, precision="q4_1")
    with pytest.raises(ModelError, match=r"is 48 wide; Q8_0 takes multiples of 32"):
        export_gguf(task, precision="q8_0")
    changes = dict(task.delta.changes)
    name = next(iter(changes))
    changes[name] = LowRankUpdate(1e10 * changes[name].left, changes[name].right)
    huge = Delta(task.delta.metadata, changes)
    with pytest.raises(ModelError, match="numbers too large for F16; use --precision q8_0"):
        export_gguf(job(tmp_path, "x.gguf", huge))
    assert not task.out.exists()


def test_another_models_file_is_refused(tmp_path: Path) -> None:
    task = job(tmp_path, "x.gguf")
    other = tmp_path / "other"
    other.mkdir()
    directory(other / "model", rms_norm_eps=1e-5)
    weights = other / "model"
    model = load(weights)
    with torch.no_grad():
        model.weight("model.layers.1.mlp.down_proj.weight").neg_()
    model.hf.save_pretrained(weights)
    with pytest.raises(ModelError, match=r"is a different model from .*: blk\.1\.ffn_down"):
        export_gguf(task, base_gguf=unedited(other))
    with pytest.raises(InputError, match=r"--base-gguf must be a \.gguf file"):
        export_gguf(task, base_gguf=weights)
    assert not task.out.exists()


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma3"])
def test_other_architectures_are_left_to_llama_cpp(tmp_path: Path, family: str) -> None:
    source = directory(tmp_path / "model", family)
    task = ExportJob(Base.of(random_delta(load(source)), str(source)), tmp_path / "x.gguf")
    with pytest.raises(ModelError, match=r"cannot be converted to GGUF here; .*convert_hf_to_gguf"):
        export_gguf(task)


def test_an_unknown_tokenizer_is_left_to_llama_cpp(tmp_path: Path) -> None:
    task = job(tmp_path, "x.gguf")
    path = tmp_path / "model" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["pre_tokenizer"] = {"type": "Whitespace"}
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="its tokenizer cannot be converted to GGUF here"):
        export_gguf(task)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gemma3", "phi3", "gpt_neox"])
def test_adapters_equal_the_change(tmp_path: Path, family: str) -> None:
    """By llama.cpp's rule: ``alpha`` over the adapter's own rank, times ``lora_b lora_a``."""
    source = directory(tmp_path / "model", family)
    delta = random_delta(load(source))
    first = next(iter(delta.changes))
    changes = dict(delta.changes)
    changes[first] = LowRankUpdate(changes[first].left[:, :1], changes[first].right[:1])
    delta = Delta(delta.metadata, changes)
    task = ExportJob(Base.of(delta, str(source)), tmp_path / "x.gguf")
    export_lora(task)
    fields, found = open_gguf(task.out).fields, tensors(task.out)
    assert fields["general.type"].contents() == "adapter"
    assert fields["adapter.type"].contents() == "lora"
    alpha = fields["adapter.lora.alpha"].contents()
    assert len(found) == 2 * len(changes)
    for name, change in changes.items():
        layer = task.base.layer_of(name)
        a, b = (found[f"blk.{layer}.ffn_down.weight.lora_{part}"].data for part in "ab")
        product = alpha / b.shape[1] * b.astype(float) @ a.astype(float)
        # Each factor is rounded to float32, so each term of the product is, twice, by 2^-24 of it.
        rounding = 2**-23 * 1.01 * numpy.abs(alpha / b.shape[1] * b) @ numpy.abs(a).astype(float)
        assert (numpy.abs(product - change.dense().numpy()) <= rounding).all()


def test_names_unknown_to_gguf_are_reported() -> None:
    with pytest.raises(ModelError, match="architecture 'dune' are not known"):
        tensor_names("dune", 2, ["x.weight"])
    with pytest.raises(ModelError, match=r"llama have no weight for model\.x\.weight"):
        tensor_names("llama", 2, ["model.x.weight"])


def test_damaged_files_give_one_error(tmp_path: Path) -> None:
    job(tmp_path, "x.gguf")
    content = bytearray(unedited(tmp_path).read_bytes())
    generator = numpy.random.default_rng(0)
    broken = tmp_path / "broken.gguf"
    for number in range(150):
        damaged = content[:]
        if number % 3 == 0:
            damaged = damaged[: generator.integers(1, len(content))]
        for position in generator.integers(0, min(len(damaged), 4000), 4):
            damaged[position] = int(generator.integers(0, 256))
        broken.write_bytes(damaged)
        with suppress(CollabEditError):
            open_gguf(broken)
