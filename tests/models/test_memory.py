"""How much of a stage fits into one pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collabedit.cli.options import read_bytes
from collabedit.editing import measure, optimise_targets
from collabedit.editors import Hyperparameters
from collabedit.errors import InputError
from collabedit.evaluation import score
from collabedit.models.loading import load_model
from collabedit.models.memory import least_budget, pass_tokens, texts_at_once
from collabedit.requests import EditRequest
from tests.conftest import EXACT, make_model, save_model

CONTEXTS = [["{}"], ["Then. {}", "So it is: {}"]]
SETTINGS = Hyperparameters(layers=(0, 1), target_steps=3)
REQUESTS = [
    EditRequest(0, "The capital of {} is", "Italy", "Paris"),
    EditRequest(1, "{} plays the", "The old pianist", "drums"),
    EditRequest(2, "The mother tongue of {} is", "Marie", "English"),
]


def test_without_a_budget_passes_are_the_fastest() -> None:
    model = make_model("llama")
    assert pass_tokens(model, 512, read_share=1.0, kept_layers=9) == 512
    assert texts_at_once(model, 64, 20, 3) == 64


def test_a_pass_shrinks_with_the_budget_and_with_what_it_keeps() -> None:
    model = make_model("llama")
    model.memory_budget = 3_000_000
    plain = pass_tokens(model, 10**6)
    kept = pass_tokens(model, 10**6, kept_layers=2)
    read = pass_tokens(model, 10**6, read_share=0.5)
    assert plain // 3 == pytest.approx(kept, abs=1)
    assert 1 <= read < plain
    model.memory_budget = 6_000_000
    assert pass_tokens(model, 10**6) == pytest.approx(2 * plain, abs=2)
    model.memory_budget = 1
    assert pass_tokens(model, 512) == texts_at_once(model, 64, 20, 3) == 1


def test_above_the_last_layer_nothing_is_kept() -> None:
    model = make_model("llama")
    model.memory_budget = 1
    assert texts_at_once(model, 64, 20, 0) == 64


def test_a_pass_counts_logits_by_the_vocabulary() -> None:
    model = make_model("llama")
    model.memory_budget = 10**9
    usable = model.memory_budget / 2
    silent = usable / pass_tokens(model, 10**9)
    read = usable / pass_tokens(model, 10**9, read_share=1.0)
    assert read - silent == pytest.approx(3 * 4 * len(model.head.weight), rel=0.01)  # type: ignore[arg-type]


@pytest.mark.usefixtures("exact_arithmetic")
def test_the_budget_changes_no_result_beyond_rounding() -> None:
    free, tight = make_model("llama"), make_model("llama")
    tight.memory_budget = 200_000
    assert pass_tokens(tight, 512, read_share=0.5) < 60
    found = [
        optimise_targets(model, REQUESTS, CONTEXTS, SETTINGS, quick=False)
        for model in (free, tight)
    ]
    assert torch.allclose(*found, atol=EXACT)
    keys = [measure(model, REQUESTS, CONTEXTS, [0], 1).keys[0] for model in (free, tight)]
    assert torch.allclose(*keys, atol=EXACT)
    pairs = [(request.text, request.target_new) for request in REQUESTS]
    losses = [[result.nll for result in score(model, pairs)] for model in (free, tight)]
    assert losses[0] == pytest.approx(losses[1], abs=EXACT)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5g", 1_500_000_000), ("7", 7), ("3kb", 3000)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert read_bytes(text) == size
    assert read_bytes(None) is None


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2 apples", "0", "nan"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--memory-budget"):
        read_bytes(text)


def test_warns_about_a_budget_that_is_too_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("llama")
    save_model(model, tmp_path)
    least = least_budget(model)
    load_model(str(tmp_path), memory_budget=least)
    assert "too small" not in capsys.readouterr().err
    load_model(str(tmp_path), memory_budget=least - 1)
    assert "too small" in capsys.readouterr().err
