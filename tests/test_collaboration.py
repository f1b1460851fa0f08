"""The library's two calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import collabedit
from collabedit.algebra import relative_distance
from collabedit.errors import CollabEditError
from collabedit.models import LanguageModel, load_model
from tests.conftest import make_model, save_model
from tests.editing.facts import REQUESTS

FACTS = [{"prompt": r.prompt, "subject": r.subject, "target": r.target_new} for r in REQUESTS[:4]]


@pytest.fixture
def model() -> LanguageModel:
    return make_model("llama")


@pytest.mark.parametrize("form", ["dictionaries", "requests", "file"])
def test_edit_takes_facts_in_any_form(model: LanguageModel, form: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, FACTS)), encoding="utf-8")
    facts = {"dictionaries": FACTS, "requests": REQUESTS[:4], "file": path}[form]
    before = {name: value.clone() for name, value in model.hf.named_parameters()}
    result = collabedit.edit(model, facts)
    changed = {
        name for name, value in model.hf.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed == set(result.delta.changes)
    assert result.model is model
    assert result.delta.metadata.edits == 4
    assert str(result).startswith("tiny-llama: 4 edits of 1 party by MEMIT, layers ")


def test_collaborate_equals_one_party_with_all_facts() -> None:
    parties = {"hospital": FACTS[:1], "bank": FACTS[1:]}
    together = collabedit.collaborate(make_model("gpt2", dtype=torch.float64), parties)
    alone = collabedit.edit(make_model("gpt2", dtype=torch.float64), FACTS)
    assert together.delta.metadata.parties == 2
    for name, change in alone.delta.changes.items():
        assert relative_distance(together.delta.changes[name], change) < 1e-10


def test_a_result_is_saved_as_a_model_or_as_its_delta(model: LanguageModel, tmp_path: Path) -> None:
    result = collabedit.edit(model, FACTS)
    result.save(str(tmp_path / "delta.safetensors"))
    assert collabedit.Delta.load(tmp_path / "delta.safetensors").sha256 == result.delta.sha256
    result.save(str(tmp_path / "edited"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    for name in result.delta.changes:
        assert torch.equal(loaded.get_parameter(name), model.hf.get_parameter(name))


def test_a_result_is_saved_as_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache"))
    unedited = make_model("llama")
    save_model(unedited, tmp_path / "model")
    result = collabedit.edit(tmp_path / "model", FACTS)
    result.save(tmp_path / "edited.gguf")
    saved = load_model(str(tmp_path / "edited.gguf"), device="cpu")
    for name in result.delta.changes:
        rounded = result.model.hf.get_parameter(name).half().float()
        assert torch.equal(saved.hf.get_parameter(name), rounded)


def test_bad_facts_are_named_before_any_work(model: LanguageModel) -> None:
    before = model.state_fingerprint()
    with pytest.raises(CollabEditError, match="record 1"):
        collabedit.edit(model, [FACTS[0], {"prompt": "no subject", "target": "x"}])
    assert model.state_fingerprint() == before
