"""Scores against one plain forward pass per pair."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from collabedit.errors import RequestError
from collabedit.evaluation.forest import can_branch, plant
from collabedit.evaluation.scoring import TargetScore, score
from collabedit.models import LanguageModel
from collabedit.models.tokens import PromptText, encode
from tests.conftest import EXACT

PAIRS = [
    ("The capital of France is", "Paris"),
    ("The capital of France is", "Rome"),
    ("The capital of France is", "Paris, the city of France"),
    ("The capital of France", "is Paris"),
    ("The mother tongue of Danielle Darrieux is", "French"),
    ("The mother tongue of Danielle Darrieux is ", "French"),
    ("The", "capital"),
    ("She speaks English. He plays", "guitar, said O'Neill's friend in Österreich"),
    ("Москва —", "столица России"),
]


@torch.no_grad()
def brute_force(model: LanguageModel, prompt: str, target: str) -> TargetScore:
    (text,) = encode(model.tokenizer, [PromptText(prompt, target)])
    logits = model.hf(input_ids=torch.tensor([text.ids])).logits[0].float()
    losses, hits = [], []
    for position in range(text.target_start, len(text.ids)):
        row = logits[position - 1].log_softmax(-1)
        losses.append(-row[text.ids[position]].item())
        hits.append(row.argmax().item() == text.ids[position])
    return TargetScore(sum(losses) / len(losses), tuple(hits))


def assert_same(found: list[TargetScore], expected: list[TargetScore]) -> None:
    assert [item.nll for item in found] == pytest.approx([e.nll for e in expected], abs=EXACT)
    assert [i.tokens_correct for i in found] == [e.tokens_correct for e in expected]


def test_scores_equal_one_pass_per_pair(exact_family_model: LanguageModel) -> None:
    expected = [brute_force(exact_family_model, *pair) for pair in PAIRS]
    assert_same(score(exact_family_model, PAIRS), expected)
    assert len({round(item.nll, 3) for item in expected}) >= len(PAIRS) - 1  # not all alike


@pytest.mark.parametrize("max_tokens", [1, 8, 20, 64, 4096])
def test_scores_do_not_depend_on_the_batches(exact_llama: LanguageModel, max_tokens: int) -> None:
    expected = [brute_force(exact_llama, *pair) for pair in PAIRS]
    assert_same(score(exact_llama, PAIRS, max_tokens=max_tokens), expected)


def test_scores_come_in_the_order_of_the_pairs(exact_gpt2: LanguageModel) -> None:
    backwards = score(exact_gpt2, PAIRS[::-1])
    assert_same(backwards[::-1], score(exact_gpt2, PAIRS))


def test_a_trailing_space_and_a_repeated_pair_change_nothing(tiny_llama: LanguageModel) -> None:
    plain, spaced, again = score(tiny_llama, [PAIRS[4], PAIRS[5], PAIRS[4]])
    assert plain == spaced == again


def test_correct_means_that_every_target_token_is_the_most_likely(
    tiny_llama: LanguageModel,
) -> None:
    assert TargetScore(1.0, (True, True)).correct
    assert not TargetScore(1.0, (True, False)).correct
    assert TargetScore(1.0, (True, False, False, False)).token_accuracy == 0.25
    found = score(tiny_llama, [("The capital of", chr(c)) for c in range(ord("a"), ord("z"))])
    assert not all(item.correct for item in found)


def test_a_predicted_token_counts_as_correct(exact_gpt2: LanguageModel) -> None:
    words = ["capital", "tongue", "mother", "Paris", "is", "of", "a", "e", "s", "in"]
    prompts = [f"{a} {b}" for a in words for b in words]
    found = score(exact_gpt2, [(prompt, word) for prompt in prompts for word in words])
    assert any(item.correct for item in found)
    for (prompt, word), item in zip(((p, w) for p in prompts for w in words), found, strict=True):
        if item.correct:
            assert brute_force(exact_gpt2, prompt, word).correct


def test_common_prefixes_are_computed_once() -> None:
    rows = [(1, 2, 3), (1, 2), (1, 2, 4, 5), (1, 2, 3), (6,), (1, 2, 3, 7)]
    (forest,), locations = plant(rows, size=64)
    assert len(forest.tokens) == 7
    for row in rows:
        _, path = locations[row]
        assert tuple(forest.tokens[node] for node in path) == row
        assert [forest.depths[node] for node in path] == list(range(len(row)))
        for node in range(len(forest.tokens)):  # a node sees its path and nothing else
            seen = node <= path[-1] < forest.ends[node]
            assert seen == (node in path)


def test_forests_stay_within_their_size_and_single_rows_do_not_branch() -> None:
    rows = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    forests, locations = plant(rows, size=7)
    assert all(len(forest.tokens) <= 7 for forest in forests)
    assert len(locations) == 27
    forests, locations = plant([*rows, (0, 0)], size=7, branching=False)
    assert [forest.tokens for forest in forests] == [list(row) for row in rows]
    assert locations[0, 0] == (0, [0, 1])


def test_the_test_models_can_branch(tiny_llama: LanguageModel, tiny_gpt2: LanguageModel) -> None:
    assert can_branch(tiny_llama, 100)
    assert can_branch(tiny_gpt2, 100)


def test_a_model_that_cannot_branch_is_scored_row_by_row(exact_llama: LanguageModel) -> None:
    config = BloomConfig(vocab_size=len(exact_llama.tokenizer), hidden_size=32, n_layer=2, n_head=4)
    torch.manual_seed(0)
    hf = BloomForCausalLM(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.15)
    bloom = LanguageModel(hf, exact_llama.tokenizer, "tiny-bloom")
    assert not can_branch(bloom, 100)  # its ALiBi is computed from an ordinary mask
    assert_same(score(bloom, PAIRS), [brute_force(bloom, *pair) for pair in PAIRS])


def test_a_model_that_branches_wrongly_is_detected(
    exact_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = exact_llama.hf.forward

    def deaf(**inputs: torch.Tensor) -> object:
        return forward(**{k: v for k, v in inputs.items() if k != "attention_mask" or v.ndim == 2})

    expected = [brute_force(exact_llama, *pair) for pair in PAIRS]
    monkeypatch.setattr(exact_llama.hf, "forward", deaf)
    assert not can_branch(exact_llama, 100)
    assert_same(score(exact_llama, PAIRS), expected)


def test_rows_beyond_the_local_attention_are_not_branched(tiny_llama: LanguageModel) -> None:
    tiny_llama.hf.config.sliding_window = 10
    try:
        assert can_branch(tiny_llama, 10)
        assert not can_branch(tiny_llama, 11)
    finally:
        del tiny_llama.hf.config.sliding_window


def test_only_needed_positions_are_projected(exact_llama: LanguageModel) -> None:
    shapes = []
    pairs = [("The capital of Italy is", "in"), ("The capital of Italy is", "capital")]
    expected = [brute_force(exact_llama, *pair) for pair in pairs]
    handle = exact_llama.head.register_forward_hook(lambda _m, _a, out: shapes.append(out.shape))
    try:
        found = score(exact_llama, pairs)
    finally:
        handle.remove()
    assert shapes[-1][:2] == (1, 1)  # both targets are read from the prompt's last position
    assert_same(found, expected)


def test_an_empty_prompt_and_one_beyond_the_context_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(RequestError, match="empty prompt"):
        score(tiny_llama, [("", "Paris")])
    with pytest.raises(RequestError, match="the model takes 128"):
        score(tiny_llama, [("The capital " * 200, "Paris")])


def test_nothing_to_score(tiny_llama: LanguageModel) -> None:
    assert score(tiny_llama, []) == []


def test_half_precision_is_scored_in_float32(tiny_llama: LanguageModel) -> None:
    model = LanguageModel(
        type(tiny_llama.hf)(tiny_llama.hf.config).to(torch.bfloat16), tiny_llama.tokenizer, "half"
    )
    found = score(model, PAIRS)
    assert all(math.isfinite(item.nll) for item in found)
    assert len({item.nll for item in found}) > 5


@pytest.mark.slow
@pytest.mark.usefixtures("exact_arithmetic")
def test_scores_of_the_real_model(exact_smollm2: LanguageModel) -> None:
    assert can_branch(exact_smollm2, 100)
    expected = [brute_force(exact_smollm2, *pair) for pair in PAIRS]
    found = score(exact_smollm2, PAIRS)
    assert_same(found, expected)
    assert found[0].nll < found[1].nll  # Paris, not Rome
