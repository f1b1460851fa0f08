"""A GPU computes what the processor computes, in every family; skipped where there is none.

In float64 both differ by rounding alone (:data:`tests.conftest.EXACT`), and so do merged and pooled
edits. Usual runs on a GPU are of bfloat16 models: there the merged edit must still be the pooled
one, which depends on the solve in float64 alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from collabedit import edit
from collabedit.algebra import relative_distance
from collabedit.editing import measure
from collabedit.evaluation import evaluate, summarise
from collabedit.evaluation.greedy import continue_greedily
from collabedit.export import save_edited_model
from collabedit.messages import Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.requests import Record
from tests.conftest import EXACT, FAMILIES, make_model, save_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.test_families import check_merging, covariance_of, merged, parties_of, round_on

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


def on_gpu(model: LanguageModel) -> LanguageModel:
    return LanguageModel(model.hf.to("cuda"), model.tokenizer, model.name)


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_rounds_are_those_of_the_processor(
    exact_arithmetic: None, family: str, schedule: Schedule
) -> None:
    here = check_merging(make_model(family), schedule)
    there = check_merging(on_gpu(make_model(family)), schedule)
    for name, change in here.changes.items():
        assert relative_distance(there.changes[name], change) < EXACT


@pytest.mark.parametrize("editor", ["AlphaEdit", "EMMET", "PMET", "UltraEdit"])
def test_editors_are_those_of_the_processor(exact_arithmetic: None, editor: str) -> None:
    found = []
    for model in (make_model("llama"), on_gpu(make_model("llama"))):
        config = round_on(model, editor)
        method = "CollabEdit" if config.rules.has_statistics else "SA"
        covariance = covariance_of(model, config)
        found.append(merged(config, parties_of(model, config), covariance, method).changes)
    here, there = found
    for name, change in here.items():
        assert relative_distance(there[name], change) < EXACT


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_scores_and_answers_are_those_of_the_processor(exact_arithmetic: None, family: str) -> None:
    records = [Record(request) for request in REQUESTS]
    found = []
    for model in (make_model(family), on_gpu(make_model(family))):
        keys = measure(model, REQUESTS, CONTEXTS, (1, 2), 2)
        rows = [tuple(model.tokenizer(request.text)["input_ids"]) for request in REQUESTS]
        texts = continue_greedily(model, rows, max_tokens=8)
        found.append((keys, evaluate(model, records), texts))
    (keys, cases, texts), (keys_there, cases_there, texts_there) = found
    for layer, own in keys.keys.items():
        assert (keys_there.keys[layer] - own).norm() < EXACT * own.norm()
    assert summarise(cases_there) == pytest.approx(summarise(cases))
    assert texts_there == texts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_edits_are_merged_saved_and_loaded(family: str, dtype: str, tmp_path: Path) -> None:
    save_model(make_model(family), tmp_path / "model")
    model = load_model(str(tmp_path / "model"), dtype=dtype, device="cuda")
    tokens = torch.arange(2, 14, device="cuda")[None]
    unedited = model.hf(tokens).logits
    save_edited_model(model, check_merging(model, Schedule.ONE_SHOT), tmp_path / "edited")
    edited = model.hf(tokens).logits
    assert not torch.allclose(edited, unedited)
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype="auto")
    assert torch.equal(saved.eval().to("cuda")(tokens).logits, edited)


def test_the_real_model_is_edited() -> None:
    model = load_model("smollm2-135m", device="cuda")
    facts = [{"prompt": "{} was founded by", "subject": "Microsoft", "target_new": "Ada Lovelace"}]
    outcomes = edit(model, facts).outcomes
    assert outcomes is not None
    assert not outcomes.failed
