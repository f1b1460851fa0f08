from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput

from collabedit.models import LanguageModel
from collabedit.models.sampling import extend
from tests.conftest import make_model


def likeliest(logits: Tensor, _position: int) -> Tensor:
    return logits.argmax(dim=-1)


def test_rows_continue_as_without_a_cache(family_model: LanguageModel) -> None:
    family_model.hf.double()
    rows = torch.tensor([[5, 9, 30], [7, 7, 12]])
    found = extend(family_model, rows, 9, likeliest)
    expected = rows
    for _ in range(6):
        logits = family_model.hf(input_ids=expected, use_cache=False).logits[:, -1]
        expected = torch.cat([expected, logits.argmax(dim=-1, keepdim=True)], dim=1)
    assert torch.equal(found, expected)


def test_the_choice_sees_float32_logits_and_each_position_once() -> None:
    model = make_model("llama", dtype=torch.bfloat16)
    seen: list[int] = []

    def choose(logits: Tensor, position: int) -> Tensor:
        assert logits.dtype == torch.float32
        assert logits.shape == (2, model.hf.config.vocab_size)
        seen.append(position)
        return torch.tensor([3, 4])

    extended = extend(model, torch.tensor([[5, 6], [7, 8]]), 5, choose)
    assert seen == [2, 3, 4]
    assert extended.tolist() == [[5, 6, 3, 3, 3], [7, 8, 4, 4, 4]]


def test_rows_that_are_long_enough_are_returned(tiny_llama: LanguageModel) -> None:
    rows = torch.tensor([[5, 6, 7]])
    assert extend(tiny_llama, rows, 3, likeliest) is rows


def test_a_model_without_a_cache_reads_the_whole_rows(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.tensor([[5, 9, 30]])
    expected = extend(tiny_llama, rows, 8, likeliest)
    usual = tiny_llama.hf.forward
    read: list[int] = []

    def forgetful(input_ids: Tensor, **_: object) -> CausalLMOutput:
        read.append(input_ids.shape[1])
        return CausalLMOutput(logits=usual(input_ids=input_ids).logits)

    monkeypatch.setattr(tiny_llama.hf, "forward", forgetful)
    assert torch.equal(extend(tiny_llama, rows, 8, likeliest), expected)
    assert read == [3, 4, 5, 6, 7]
