"""Greedy continuations of many rows against one row at a time, and against transformers."""

from __future__ import annotations

import pytest
import torch

from collabedit.evaluation import greedy
from collabedit.evaluation.greedy import Row, _alike, continue_greedily, end_tokens
from collabedit.models import LanguageModel
from tests.conftest import make_model

BEGINNING = tuple(range(40, 50))
ROWS: list[Row] = [
    (*BEGINNING, 60),
    (*BEGINNING, 61, 62, 63),
    (*BEGINNING, 61, 62, 63, 64, 65),
    BEGINNING,
    (70,),
    (71, 72, 73),
    (71, 72),
    (70,),
]


def by_hand(model: LanguageModel, row: Row, steps: int) -> list[int]:
    """Whole rows, one at a time, without a cache."""
    ids = list(row)
    for _ in range(steps):
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        token = int(logits.argmax())
        if token in end_tokens(model):
            break
        ids.append(token)
    return ids[len(row) :]


@pytest.mark.parametrize("least", [2, 8], ids=["some share a prefix", "all together"])
def test_rows_together_are_continued_as_each_alone(
    exact_family_model: LanguageModel, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collabedit.evaluation.greedy._LEAST_ROWS", least)
    found = continue_greedily(exact_family_model, ROWS, max_tokens=7)
    assert [list(one.tokens) for one in found] == [by_hand(exact_family_model, r, 7) for r in ROWS]


@pytest.mark.parametrize("rows", [1, 3])
def test_prompts_read_in_several_passes(
    exact_family_model: LanguageModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collabedit.evaluation.greedy._ROWS_A_PASS", rows)
    monkeypatch.setattr("collabedit.evaluation.greedy._LEAST_ROWS", 4)
    found = continue_greedily(exact_family_model, ROWS, max_tokens=7)
    assert [list(one.tokens) for one in found] == [by_hand(exact_family_model, r, 7) for r in ROWS]


@pytest.mark.parametrize(
    ("lengths", "passes"),
    [
        ([3], [1]),
        ([3] * 40, [40]),  # nothing to pad
        ([3] * 10 + [4] * 10 + [5] * 10, [20, 10]),
        ([3] * 16 + [4] * 16 + [5], [16, 16, 1]),
    ],
)
def test_a_pass_has_enough_rows_of_similar_length(
    tiny_llama: LanguageModel,
    lengths: list[int],
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    whole = greedy._Reader.__init__

    def counting(self: greedy._Reader, model: LanguageModel, rows: list[Row]) -> None:
        read.append(len(rows))
        whole(self, model, rows)

    monkeypatch.setattr(greedy._Reader, "__init__", counting)
    reader = greedy._read(tiny_llama, [(5,) * length for length in lengths])
    assert read == passes
    assert len(reader.logits) == len(lengths)


def test_rows_that_cannot_be_padded(
    exact_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collabedit.evaluation.greedy._can_pad", lambda *_: False)
    found = continue_greedily(exact_llama, ROWS, max_tokens=7)
    assert [list(one.tokens) for one in found] == [by_hand(exact_llama, r, 7) for r in ROWS]


@pytest.mark.parametrize(("results", "trials"), [([True], 1), ([False, True], 2)])
def test_a_model_is_tried_until_padding_leaves_it_alone(
    results: list[bool], trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tried = make_model("llama"), []

    def trial(one: LanguageModel) -> bool:
        tried.append(one)
        return results[len(tried) - 1]

    monkeypatch.setattr(greedy, "_ignores_padding", trial)
    for _ in range(3):
        continue_greedily(model, ROWS, max_tokens=1)
    assert len(tried) == trials


def test_an_end_token_ends_one_row_and_leaves_the_others(exact_llama: LanguageModel) -> None:
    whole = [by_hand(exact_llama, row, 7) for row in ROWS]
    end = whole[1][3]
    exact_llama.hf.generation_config.eos_token_id = [1, end]
    found = continue_greedily(exact_llama, ROWS, max_tokens=7)
    for one, tokens in zip(found, whole, strict=True):
        assert list(one.tokens) == (tokens[: tokens.index(end)] if end in tokens else tokens)
        assert one.ended is (end in tokens)


def test_few_rows_of_a_prefix_are_batched_with_others() -> None:
    many = [(*BEGINNING, token) for token in range(8)]
    few = [(*BEGINNING[::-1], token) for token in range(7)]
    assert _alike([*few, *many, (70,)]) == [many, [*few, (70,)]]


def test_a_stop_keeps_the_token_that_it_saw_last(exact_llama: LanguageModel) -> None:
    stops = [lambda _model, new: len(new) >= 2] * len(ROWS)
    found = continue_greedily(exact_llama, ROWS, max_tokens=7, stops=stops)
    assert [len(one.tokens) for one in found] == [2] * len(ROWS)
    assert not any(one.ended for one in found)


def test_equal_rows_may_stop_differently(exact_llama: LanguageModel) -> None:
    row = ROWS[1]
    found = continue_greedily(
        exact_llama, [row, row], max_tokens=7, stops=[lambda _model, new: len(new) >= 2, None]
    )
    whole = by_hand(exact_llama, row, 7)
    assert [list(one.tokens) for one in found] == [whole[:2], whole]


def test_the_context_bounds_the_new_tokens() -> None:
    model = make_model("gpt2")
    row = tuple(int(i) for i in torch.arange(125) % 50 + 20)
    (found,) = continue_greedily(model, [row], max_tokens=20)
    assert len(found.tokens) <= 3


def test_nothing_to_continue(tiny_llama: LanguageModel) -> None:
    assert continue_greedily(tiny_llama, []) == []
