from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from collabedit.errors import InputError
from collabedit.evaluation import perplexity
from collabedit.models import LanguageModel, load_model
from tests.conftest import EXACT, float64_throughout, make_model

TEXT = "The capital of France is Paris. She speaks English; he plays the guitar in Italy. " * 3


@torch.no_grad()
def by_windows(model: LanguageModel, ids: list[int], window: int, start: list[int]) -> float:
    total, count = 0.0, 0
    for first in range(0, len(ids), window - len(start)):
        row = torch.tensor([start + ids[first : first + window - len(start)]])
        if row.shape[1] > 1:
            logits = model.hf(input_ids=row).logits[0, :-1].float()
            total += cross_entropy(logits, row[0, 1:], reduction="sum").item()
            count += row.shape[1] - 1
    return math.exp(total / count)


@pytest.mark.parametrize("window", [5, 32, 5000])
def test_windows_one_by_one(exact_llama: LanguageModel, window: int) -> None:
    ids = exact_llama.tokenizer(TEXT)["input_ids"]
    expected = by_windows(exact_llama, ids, min(window, 128), [])
    assert perplexity(exact_llama, TEXT, window=window) == pytest.approx(expected, rel=EXACT)


@pytest.mark.usefixtures("exact_arithmetic")
def test_the_beginning_token_of_a_tokenizer_begins_every_window() -> None:
    model = make_model("llama", bos=True)
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    expected = by_windows(model, ids, 16, [0])
    assert perplexity(model, TEXT, window=16) == pytest.approx(expected, rel=EXACT)


def test_only_the_beginning_is_used(exact_gpt2: LanguageModel) -> None:
    ids = exact_gpt2.tokenizer(TEXT)["input_ids"][:41]
    expected = pytest.approx(by_windows(exact_gpt2, ids, 20, []), rel=EXACT)
    assert perplexity(exact_gpt2, TEXT, window=20, max_tokens=41) == expected
    assert perplexity(exact_gpt2, TEXT, window=20, max_tokens=None) != expected


@pytest.mark.parametrize("text", ["", "e"])
def test_a_text_without_a_token_to_predict(tiny_llama: LanguageModel, text: str) -> None:
    with pytest.raises(InputError, match="two tokens or more"):
        perplexity(tiny_llama, text)


def test_matches_the_original_codes_values(reference: Path) -> None:
    """That code divides by the number of tokens, of which the first was not predicted.

    It computed in float32, whose rounding is all that the tolerance is for: this side has none.
    """
    model = load_model(str(reference / "model"), dtype="float64", device="cpu")
    units = json.loads((reference / "metric_units.json").read_text("utf-8"))
    for text, expected in zip(units["texts"], units["perplexity_max100"], strict=True):
        count = min(100, len(model.tokenizer(text)["input_ids"]))
        with float64_throughout():
            found = perplexity(model, text, max_tokens=100)
        assert found ** ((count - 1) / count) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_real_model_finds_english_likelier_than_noise(smollm2: LanguageModel) -> None:
    backwards = " ".join(reversed(TEXT[:160].split()))
    assert 2 < perplexity(smollm2, TEXT[:160]) < perplexity(smollm2, backwards)
