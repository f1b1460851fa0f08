"""Saved models: the type of the weights, and what plain ``transformers`` makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from collabedit.errors import InputError, ModelError
from collabedit.export import save_edited_model
from collabedit.export.model_directory import check_output
from collabedit.export.target import saved_files
from collabedit.messages import Delta
from collabedit.models import LanguageModel
from tests.conftest import FAMILIES, half_step, make_model
from tests.export.saving import LEFT_OUT, OTHERS, change_json, load, original, random_delta


def reloaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def check_saved(model: LanguageModel, folder: Path) -> None:
    """Check that the folder has exactly the weights of the model in memory."""
    saved = reloaded(folder)
    assert saved.dtype == model.dtype
    for name, value in model.hf.named_parameters():
        assert torch.equal(saved.get_parameter(name), value), name


def test_the_progress_bar_of_transformers_is_hidden(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would break the display of our own stages; afterwards it is back as it was."""
    model = make_model("llama")
    transformers.logging.enable_progress_bar()
    model.hf.save_pretrained(tmp_path / "plain")
    assert "it/s" in capfd.readouterr().err
    save_edited_model(model, random_delta(model), tmp_path / "ours")
    assert capfd.readouterr().err == ""
    assert transformers.logging.is_progress_bar_enabled()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_saved_model_keeps_its_type_and_has_the_rounded_sum(tmp_path: Path, dtype: str) -> None:
    model = make_model("llama", dtype=getattr(torch, dtype))
    delta = random_delta(model)
    changes = delta.changes
    exact = {name: model.weight(name).double() + changes[name].dense() for name in changes}
    save_edited_model(model, delta, tmp_path / "edited")
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype="auto")
    assert {str(p.dtype) for p in saved.parameters()} == {f"torch.{dtype}"}
    assert json.loads((tmp_path / "edited" / "config.json").read_text())["dtype"] == dtype
    for name, wanted in exact.items():
        error = (saved.get_parameter(name).double() - wanted).abs()
        assert (error <= half_step(wanted, getattr(torch, dtype))).all()


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_only_the_edited_weights_of_the_original_change(
    tmp_path: Path, family: str, shards: bool
) -> None:
    source = original(tmp_path / "original", family, shards=shards)
    before = {name: (source / name).read_bytes() for name in saved_files(source)}
    model = load(source)
    delta = random_delta(model)
    check_output(tmp_path / "edited", model)
    save_edited_model(model, delta, tmp_path / "edited")
    check_saved(model, tmp_path / "edited")
    assert {name: (source / name).read_bytes() for name in saved_files(source)} == before
    names = set(saved_files(tmp_path / "edited"))
    ours = {"collabedit.json", "collabedit.undo", "README.md"}
    assert names == (set(before) - set(LEFT_OUT)) | ours
    assert set(OTHERS) <= names
    changed = set()
    for name in names - ours:
        if not name.endswith(".safetensors"):
            assert (tmp_path / "edited" / name).read_bytes() == before[name], name
            continue
        old, new = load_file(source / name), load_file(tmp_path / "edited" / name)
        changed |= {key for key in old if not torch.equal(old[key], new[key])}
        with safe_open(tmp_path / "edited" / name, "pt") as stored:
            assert stored.metadata() == {"format": "pt"}
    assert len(changed) == len(delta.changes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edited", "original"]


def test_the_stored_names_may_lack_the_prefix(tmp_path: Path) -> None:
    source = original(tmp_path / "original", "gpt2")
    weights = load_file(source / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in weights.items()}
    assert set(bare).isdisjoint(weights)
    save_file(bare, source / "model.safetensors", {"format": "pt", "by": "hand"})
    model = load(source)
    save_edited_model(model, random_delta(model), tmp_path / "edited")
    check_saved(model, tmp_path / "edited")
    with safe_open(tmp_path / "edited" / "model.safetensors", "pt") as stored:
        assert set(stored.keys()) == set(bare)
        assert stored.metadata() == {"format": "pt", "by": "hand"}


def test_another_type_than_stored_is_saved_dense(tmp_path: Path) -> None:
    source = original(tmp_path / "original", shards=True)
    model = load(source, "bfloat16")
    save_edited_model(model, random_delta(model), tmp_path / "edited")
    check_saved(model, tmp_path / "edited")
    assert set(OTHERS) <= set(saved_files(tmp_path / "edited"))
    assert not (tmp_path / "edited" / "model.safetensors.index.json").exists()


def test_a_pickled_original_is_saved_dense(tmp_path: Path) -> None:
    source = original(tmp_path / "original")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    model = load(source)
    save_edited_model(model, random_delta(model), tmp_path / "edited")
    check_saved(model, tmp_path / "edited")
    names = set(saved_files(tmp_path / "edited"))
    assert set(OTHERS) <= names
    assert "pytorch_model.bin" not in names


def test_settings_that_were_changed_in_memory_are_saved(tmp_path: Path) -> None:
    source = original(tmp_path / "original", shards=True)
    model = load(source)
    model.hf.config.rms_norm_eps = 0.125
    save_edited_model(model, random_delta(model), tmp_path / "edited")
    check_saved(model, tmp_path / "edited")
    assert reloaded(tmp_path / "edited").config.rms_norm_eps == 0.125


@pytest.mark.parametrize("kind", ["adapter", "packed"])
def test_no_trace_of_packing_or_adapters_is_left(tmp_path: Path, kind: str) -> None:
    source = original(tmp_path / "original", shards=True)
    model = load(source)
    if kind == "adapter":
        (source / "adapter_config.json").write_text("{}")
        (source / "adapter_model.safetensors").write_text("weights")
    else:
        packing = {"quant_method": "fp8", "weight_block_size": [8, 8]}
        change_json(source / "config.json", quantization_config=packing)
        model.hf.config.quantization_config = packing
        (source / "quantize_config.json").write_text("{}")
    save_edited_model(model, random_delta(model), tmp_path / "edited")
    check_saved(model, tmp_path / "edited")
    names = saved_files(tmp_path / "edited")
    assert set(OTHERS) <= set(names)
    assert not [name for name in names if name.startswith(("adapter_", "quantize_", "model-0"))]
    assert "quantization_config" not in (tmp_path / "edited" / "config.json").read_text()


def test_what_was_changed_in_memory_is_saved_too(tmp_path: Path) -> None:
    model = load(original(tmp_path / "original"))
    model.weight(model.weight_names([3])[0]).mul_(2.0)
    model.hf.get_input_embeddings().weight.data[5] += 1.0
    model._digests.clear()
    save_edited_model(model, random_delta(model), tmp_path / "edited")
    check_saved(model, tmp_path / "edited")


def test_a_snapshot_of_the_hub_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = original(tmp_path / "original")
    model = load(source)
    delta = random_delta(model)
    model.hf.name_or_path = model.tokenizer.name_or_path = "someone/tiny"

    def cached(repo: str, name: str, revision: str | None = None) -> str:
        assert (repo, name) == ("someone/tiny", "config.json")
        return str(source / name)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    save_edited_model(model, delta, tmp_path / "edited")
    check_saved(model, tmp_path / "edited")
    assert set(OTHERS) <= set(saved_files(tmp_path / "edited"))


def test_without_a_snapshot_transformers_saves(tmp_path: Path) -> None:
    model = load(original(tmp_path / "original"))
    delta = random_delta(model)
    model.hf.name_or_path = "nobody/no-such-model"
    save_edited_model(model, delta, tmp_path / "edited")
    check_saved(model, tmp_path / "edited")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_generation_settings_that_transformers_would_refuse_are_copied(
    tmp_path: Path, dtype: str
) -> None:
    source = original(tmp_path / "original")
    change_json(source / "generation_config.json", temperature=0.9, top_p=0.6)
    model = load(source, dtype)
    model.hf.generation_config.max_length = -3  # what it would never save
    check_output(tmp_path / "edited", model)
    save_edited_model(model, random_delta(model), tmp_path / "edited")
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        assert (tmp_path / "edited" / name).read_bytes() == (source / name).read_bytes()
    assert model.hf.generation_config.max_length == -3


def test_bad_generation_settings_of_a_model_in_memory_are_found_before_any_work(
    tmp_path: Path,
) -> None:
    model = make_model("llama")
    model.hf.generation_config.temperature = 0.5
    model.hf.generation_config.do_sample = False
    with pytest.raises(ModelError, match="generation configuration cannot be saved") as caught:
        check_output(tmp_path / "edited", model)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_too_little_room_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(original(tmp_path / "original"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"it needs about .* MB"):
        check_output(tmp_path / "edited", model)


def test_edits_are_kept_when_saving_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = original(tmp_path / "original")
    model = load(source)
    delta = random_delta(model)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        with pytest.raises(InputError, match="No space left on device; the edits are kept"):
            save_edited_model(model, delta, tmp_path / "edited")
    kept = tmp_path / "edited.delta.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == [kept.name, "original"]
    again = Delta.load(kept)
    assert again.sha256 == delta.sha256
    model = load(source)
    save_edited_model(model, again, tmp_path / "edited", delta_file=kept)
    check_saved(model, tmp_path / "edited")
    assert kept.exists()  # it was not this call's


def test_an_earlier_attempts_edits_are_not_overwritten(tmp_path: Path) -> None:
    model = load(original(tmp_path / "original"))
    (tmp_path / "edited.delta.safetensors").write_text("earlier")
    save_edited_model(model, random_delta(model), str(tmp_path / "edited"))
    assert (tmp_path / "edited.delta.safetensors").read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "edited",
        "edited.delta.safetensors",
        "original",
    ]


def test_an_edited_model_can_be_edited_and_replaced(tmp_path: Path) -> None:
    source = original(tmp_path / "original")
    for start in (source, tmp_path / "edited"):
        model = load(start)
        save_edited_model(model, random_delta(model), tmp_path / "edited", overwrite=True)
        check_saved(model, tmp_path / "edited")
    record = json.loads((tmp_path / "edited" / "collabedit.json").read_text())
    assert sorted(record["files"]) == saved_files(tmp_path / "edited")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edited", "original"]


def test_a_target_inside_the_original_is_not_copied_into_itself(tmp_path: Path) -> None:
    source = original(tmp_path / "original")
    for _ in range(2):
        model = load(source)
        save_edited_model(model, random_delta(model), source / "edited", overwrite=True)
    assert not (source / "edited" / "edited").exists()


def test_wrongly_saved_weights_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(original(tmp_path / "original"))
    monkeypatch.setattr("collabedit.export.weights.overwrite_tensors", lambda *_: None)
    with pytest.raises(ModelError, match=r"down_proj\.weight was not saved as it is"):
        save_edited_model(model, random_delta(model), tmp_path / "edited")
    assert not (tmp_path / "edited").exists()
