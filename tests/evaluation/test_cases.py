"""Results of records, against values of the original code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from collabedit.algebra import LowRankUpdate
from collabedit.evaluation import evaluate, score, summarise
from collabedit.evaluation.cases import CaseResult
from collabedit.models import LanguageModel, load_model
from collabedit.requests import EditRequest, Record, load_records
from tests.conftest import EXACT, float64_throughout, make_model

REQUEST = EditRequest(7, "The capital of {} is", "France", "Rome", "Paris", "P36")
COUNTERFACT = Record(
    REQUEST,
    paraphrase_prompts=("France's capital is", "The city is in"),
    neighborhood_prompts=("The capital of Italy is", "She speaks", "He plays the"),
)
ZSRE = Record(
    EditRequest(8, "What is the capital of {}?", "France", "Rome in Italy"),
    kind="zsre",
    paraphrase_prompts=("Which city is the capital of France?",),
    neighborhood_prompts=("nq question: who plays the guitar?",),
    neighborhood_target="a friend of O'Neill",
)
NO_TRUE = Record(
    EditRequest(9, "The capital of {} is", "Italy", "Wien"),
    paraphrase_prompts=("Italy's capital is",),
    neighborhood_prompts=("The capital of Spain is",),
)


def test_a_counterfact_record_compares_both_objects(exact_llama: LanguageModel) -> None:
    (result,) = evaluate(exact_llama, [COUNTERFACT])
    prompts = [REQUEST.text, *COUNTERFACT.paraphrase_prompts, *COUNTERFACT.neighborhood_prompts]
    new = score(exact_llama, [(prompt, "Rome") for prompt in prompts])
    true = score(exact_llama, [(prompt, "Paris") for prompt in prompts])
    expected = [
        {
            "target_new": pytest.approx(a.nll, abs=EXACT),
            "target_true": pytest.approx(b.nll, abs=EXACT),
        }
        for a, b in zip(new, true, strict=True)
    ]
    assert (result["case_id"], result["kind"]) == (7, "counterfact")
    assert result["rewrite_prompts_probs"] == expected[:1]
    assert result["paraphrase_prompts_probs"] == expected[1:3]
    assert result["neighborhood_prompts_probs"] == expected[3:]
    assert result["rewrite_prompts_correct"] == [new[0].correct]
    assert result["paraphrase_prompts_correct"] == [item.correct for item in new[1:3]]
    assert result["neighborhood_prompts_correct"] == [item.correct for item in true[3:]]


def test_a_zsre_record_counts_tokens(tiny_llama: LanguageModel) -> None:
    (result,) = evaluate(tiny_llama, [ZSRE])
    rewrite, paraphrase, neighbour = score(
        tiny_llama,
        [
            ("What is the capital of France?", "Rome in Italy"),
            (ZSRE.paraphrase_prompts[0], "Rome in Italy"),
            (ZSRE.neighborhood_prompts[0], "a friend of O'Neill"),
        ],
    )
    assert len(rewrite.tokens_correct) > 3
    assert result == {
        "case_id": 8,
        "kind": "zsre",
        "rewrite_prompts_correct": list(rewrite.tokens_correct),
        "paraphrase_prompts_correct": list(paraphrase.tokens_correct),
        "neighborhood_prompts_correct": list(neighbour.tokens_correct),
    }


def test_without_a_true_object_only_the_new_one_is_measured(tiny_llama: LanguageModel) -> None:
    (result,) = evaluate(tiny_llama, [NO_TRUE])
    assert [set(item) for item in result["rewrite_prompts_probs"]] == [{"target_new"}]
    assert len(result["paraphrase_prompts_correct"]) == 1
    assert result["neighborhood_prompts_probs"] == []
    assert result["neighborhood_prompts_correct"] == []
    assert set(summarise([result])) == {"records", "rewrite_accuracy", "paraphrase_accuracy"}


def test_mixed_records_give_the_results_of_single_ones(exact_arithmetic: None) -> None:
    model = make_model("gpt2")
    records = [COUNTERFACT, ZSRE, NO_TRUE, COUNTERFACT]
    together = evaluate(model, records, max_tokens=50)
    for record, result in zip(records, together, strict=True):
        (alone,) = evaluate(model, [record])
        assert_close(result, alone, EXACT)
    assert evaluate(model, []) == []


def test_a_result_can_be_written_as_json(tiny_llama: LanguageModel) -> None:
    results = evaluate(tiny_llama, [COUNTERFACT, ZSRE])
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_an_edit_changes_the_result(tiny_llama: LanguageModel) -> None:
    name = tiny_llama.structure.weight_name(1)
    (before,) = evaluate(tiny_llama, [COUNTERFACT])
    change = LowRankUpdate.from_dense(0.5 * tiny_llama.weight(name).double())
    with tiny_llama.edited({name: change}):
        (during,) = evaluate(tiny_llama, [COUNTERFACT])
    assert before["rewrite_prompts_probs"] != during["rewrite_prompts_probs"]
    assert evaluate(tiny_llama, [COUNTERFACT]) == [before]


@pytest.fixture(scope="module")
def reference_model(reference: Path) -> LanguageModel:
    return load_model(str(reference / "model"), dtype="float64", device="cpu")


@pytest.mark.parametrize("method", ["unedited", "GLOBAL", "CollabEdit", "SA", "TA"])
def test_matches_the_original_codes_values(
    reference: Path, reference_model: LanguageModel, method: str
) -> None:
    """That code computed in float32; the tolerance is only for its rounding."""
    records = load_records(reference / "records.json")
    stored = load_file(reference / "merged.safetensors")
    changes = {
        name.removeprefix(f"{method}."): LowRankUpdate.from_dense(delta)
        for name, delta in stored.items()
        if name.startswith(f"{method}.")
    }
    assert bool(changes) == (method != "unedited")
    expected = json.loads((reference / "eval.json").read_text("utf-8"))[method]
    with float64_throughout(), reference_model.edited(changes):
        results = evaluate(reference_model, records)
    assert len(results) == len(expected) == 20
    for result in results:
        assert_close(result, expected[str(result["case_id"])], 1e-4)


def assert_close(result: CaseResult, expected: CaseResult, tolerance: float) -> None:
    for part in ("rewrite", "paraphrase", "neighborhood"):
        correct, probs = f"{part}_prompts_correct", f"{part}_prompts_probs"
        assert result[correct] == expected[correct]
        assert len(result.get(probs, [])) == len(expected.get(probs, []))
        for found, wanted in zip(result.get(probs, []), expected.get(probs, []), strict=True):
            assert found == pytest.approx(wanted, abs=tolerance)
