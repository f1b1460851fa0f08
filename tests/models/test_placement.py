"""Sharded and offloaded models give the same results as ordinary ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from collabedit.covariance import TextCorpus, collect
from collabedit.editing import measure, optimise_targets
from collabedit.editors import Hyperparameters
from collabedit.evaluation import evaluate_generations, perplexity, score
from collabedit.export import save_edited_model
from collabedit.merging import resolve_method
from collabedit.messages import Covariance, Delta
from collabedit.models import LanguageModel, load_model
from collabedit.models.placement import is_dispatched, room_for_weights, spill_folder
from collabedit.parties import Party, fine_tune, new_round
from collabedit.requests import EditRequest, Record
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process
from tests.conftest import CORPUS, EXACT, make_model, save_model

#: Weights from disk are aligned differently in memory, which can change the order of sums.
pytestmark = pytest.mark.usefixtures("exact_module")

CONTEXTS = (("{}",), ("Then. {}", "So it is: {}"))
SETTINGS = Hyperparameters(layers=(0, 1, 2), target_steps=4, ft_steps=3)
REQUESTS = [
    EditRequest(0, "The capital of {} is", "Italy", "Paris"),
    EditRequest(1, "{} plays the", "The old pianist", "drums"),
]
TEXT = TextCorpus("sentences", {}, lambda: CORPUS * 8)
PAIRS = [(request.text, request.target_new) for request in REQUESTS]

#: Layers 1 and 3 are on disk; the edited ones are of both kinds.
DEVICE_MAPS = {
    "llama": {
        **dict.fromkeys(["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"], "cpu"),
        **{f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(4)},
    },
    "mixtral": {
        **dict.fromkeys(["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"], "cpu"),
        **{f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(4)},
    },
    "gpt2": {
        **dict.fromkeys(["transformer.wte", "transformer.wpe"], "cpu"),
        **dict.fromkeys(["transformer.ln_f", "lm_head"], "cpu"),
        **{f"transformer.h.{i}": "disk" if i % 2 else "cpu" for i in range(4)},
    },
}


def offloaded(folder: Path, family: str, **options: Any) -> LanguageModel:
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        folder, device_map=DEVICE_MAPS[family], offload_folder=spill_folder(), **options
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return LanguageModel(hf, tokenizer, "offloaded")


@pytest.fixture(scope="module", params=sorted(DEVICE_MAPS))
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(family)
    model = make_model(family)
    save_model(model, path)
    return path


@pytest.fixture
def pair(folder: Path, family: str) -> tuple[LanguageModel, LanguageModel]:
    """An ordinary model and the same one with half of its layers on disk."""
    return load_model(str(folder), device="cpu"), offloaded(folder, family)


def on_meta(model: LanguageModel) -> set[str]:
    return {name for name, p in model.hf.named_parameters() if p.device.type == "meta"}


def collected(model: LanguageModel) -> Covariance:
    return collect(model, SETTINGS.layers, TEXT, tokens=600, say=lambda _: None)


def covariance_of(model: LanguageModel) -> Tensor:
    return torch.cat(list(collected(model).second_moments.values()))


def keys_of(model: LanguageModel) -> Tensor:
    found = measure(model, REQUESTS, CONTEXTS, SETTINGS.layers, SETTINGS.layers[-1])
    return torch.cat([*found.keys.values(), found.hidden])


def targets_of(model: LanguageModel) -> Tensor:
    return optimise_targets(model, REQUESTS, CONTEXTS, SETTINGS, quick=False)


def losses_of(model: LanguageModel) -> Tensor:
    return torch.tensor([each.nll for each in score(model, PAIRS)])


def perplexity_of(model: LanguageModel) -> Tensor:
    return torch.tensor(perplexity(model, "He plays the guitar. She speaks English."))


def fine_tuning_of(model: LanguageModel) -> Tensor:
    settings = SETTINGS.with_changes(layers=(1,))
    (change,) = fine_tune(model, REQUESTS, settings).values()
    return change.dense()


@pytest.mark.parametrize(
    "stage",
    [covariance_of, keys_of, targets_of, losses_of, perplexity_of, fine_tuning_of],
    ids=lambda stage: stage.__name__.removesuffix("_of"),
)
def test_every_stage_equals_the_one_in_memory(
    pair: tuple[LanguageModel, LanguageModel], stage: Callable[[LanguageModel], Tensor]
) -> None:
    ordinary, model = pair
    assert on_meta(model)
    torch.testing.assert_close(stage(model), stage(ordinary), atol=EXACT, rtol=EXACT)


def test_generated_texts_are_the_same(pair: tuple[LanguageModel, LanguageModel]) -> None:
    records = [Record(REQUESTS[0], generation_prompts=("He plays the",))]
    ours, theirs = (evaluate_generations(m, records, max_length=12) for m in pair)
    assert ours[0]["text"] == theirs[0]["text"]


def edited_delta(model: LanguageModel) -> Delta:
    config = new_round(model, hyperparameters=SETTINGS, contexts=CONTEXTS)
    party = Party(model, REQUESTS, config, targets=targets_of(model))
    priors = static_priors(config, collected(model))
    return run_in_process([party], Coordinator(config, priors, resolve_method("GLOBAL")))


def test_a_round_edits_and_restores_and_saves_it(
    pair: tuple[LanguageModel, LanguageModel], tmp_path: Path
) -> None:
    ordinary, model = pair
    state, before = model.state_fingerprint(), losses_of(model)
    assert state == ordinary.state_fingerprint()
    delta, expected = edited_delta(model), edited_delta(ordinary)
    for name, change in expected.changes.items():
        torch.testing.assert_close(
            delta.changes[name].dense(), change.dense(), rtol=EXACT, atol=EXACT
        )
    with model.edited(delta.changes), ordinary.edited(delta.changes):
        assert not torch.equal(losses_of(model), before)
        torch.testing.assert_close(losses_of(model), losses_of(ordinary), atol=EXACT, rtol=EXACT)
        assert model.state_fingerprint() == ordinary.state_fingerprint() != state
    assert model.state_fingerprint() == state
    assert on_meta(model).isdisjoint(delta.changes)  # what was edited stays in memory
    assert on_meta(model)
    save_edited_model(model, delta, tmp_path / "edited")
    ordinary.apply_(delta.changes)
    saved = load_model(str(tmp_path / "edited"), device="cpu")
    assert saved.state_fingerprint() == ordinary.state_fingerprint()


def test_the_file_of_the_unedited_model_stays_as_it_was(
    folder: Path, family: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = (copy / "model.safetensors").read_bytes()
    model = offloaded(copy, family)
    names = model.weight_names([1, 2])
    assert names[0] in on_meta(model)
    for name in names:
        model.weight(name).add_(1.0)
    assert (copy / "model.safetensors").read_bytes() == before


def test_an_offloaded_model_gets_no_quick_copy(pair: tuple[LanguageModel, LanguageModel]) -> None:
    _, model = pair
    assert not model.can_be_quick
    assert model.quick_copy() is model


def test_auto_offloads_what_does_not_fit(folder: Path, family: str) -> None:
    ordinary = load_model(str(folder), device="cpu")
    size = sum(p.numel() * p.element_size() for p in ordinary.hf.parameters())
    model = load_model(str(folder), device="auto", max_memory={"cpu": int(0.7 * size)})
    assert is_dispatched(model.hf)
    assert on_meta(model)
    torch.testing.assert_close(losses_of(model), losses_of(ordinary), atol=EXACT, rtol=EXACT)


def test_auto_keeps_everything_in_memory_if_it_fits(folder: Path, family: str) -> None:
    model = load_model(str(folder), device="auto", max_memory={"cpu": "1GB"})
    assert not on_meta(model)


def test_auto_leaves_room_for_the_budget() -> None:
    assert room_for_weights({"cpu": 1000}, 300) == {"cpu": 700}
    assert room_for_weights({"cpu": 1000}, 3000) == {"cpu": 0}


def test_offloaded_weights_are_read_in_the_requested_type(folder: Path, family: str) -> None:
    model = offloaded(folder, family, dtype=torch.bfloat16)
    other = load_model(str(folder), dtype="bfloat16", device="cpu")
    assert model.dtype == torch.bfloat16
    assert model.state_fingerprint() == other.state_fingerprint()
