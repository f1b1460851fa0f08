"""Attention by plain products against the models' own implementation."""

from __future__ import annotations

import pytest
import torch

from collabedit.models import LanguageModel
from collabedit.models.attention import use_small_attention
from tests.conftest import EXACT, make_model


def logits(model: LanguageModel) -> torch.Tensor:
    ids = torch.arange(2, 26).view(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        found: torch.Tensor = model.hf(ids, attention_mask=mask).logits[mask.bool()]
    return found


def test_small_attention_equals_the_models_attention(exact_family_model: LanguageModel) -> None:
    hf = exact_family_model.hf
    if hf._supports_attention_backend:
        hf.set_attn_implementation("eager")  # fused kernels leave out Gemma 2's soft-capping
    expected = logits(exact_family_model)
    use_small_attention(hf)
    torch.testing.assert_close(logits(exact_family_model), expected, atol=EXACT, rtol=EXACT)


@pytest.mark.usefixtures("exact_arithmetic")
def test_gradients_reach_shared_keys_from_all_heads() -> None:
    model, other = make_model("llama"), make_model("llama")
    model.hf.set_attn_implementation("eager")
    use_small_attention(other.hf)
    assert other.hf.config._attn_implementation != model.hf.config._attn_implementation
    found = []
    for hf in (model.hf, other.hf):
        embedded = hf.get_input_embeddings().weight[None, :9].clone().requires_grad_()
        hf(inputs_embeds=embedded).logits.pow(2).sum().backward()
        found.append(embedded.grad)
    torch.testing.assert_close(found[1], found[0], atol=EXACT, rtol=EXACT)


def test_keeps_attention_that_is_more_than_a_softmax() -> None:
    model = make_model("gemma2")
    use_small_attention(model.hf)
    assert model.hf.config._attn_implementation == "eager"


def test_keeps_attention_that_has_no_fused_form(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    monkeypatch.setattr(type(model.hf), "_supports_sdpa", False)  # as GPT-J until 5.24
    use_small_attention(model.hf)
    assert model.hf.config._attn_implementation == "eager"
