from __future__ import annotations

import unicodedata

import pytest
import torch

from collabedit.errors import RequestError
from collabedit.evaluation.generation import _draws, generate
from collabedit.models import LanguageModel

PROMPTS = ["The capital of France is", "She speaks", "The capital of France is", "Rome"]


def test_a_text_depends_only_on_its_prompt_and_the_seed(tiny_llama: LanguageModel) -> None:
    texts = generate(tiny_llama, PROMPTS, seed=3, max_length=20)
    assert all(text.startswith(prompt) for text, prompt in zip(texts, PROMPTS, strict=True))
    assert texts[0] != texts[2]  # equal prompts are continued differently
    assert generate(tiny_llama, PROMPTS, seed=3, max_length=20, max_rows=1) == texts
    assert generate(tiny_llama, PROMPTS[1:2], seed=3, max_length=20) == texts[1:2]
    assert generate(tiny_llama, PROMPTS, seed=4, max_length=20) != texts


def test_generating_leaves_the_global_generator_alone(tiny_llama: LanguageModel) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate(tiny_llama, PROMPTS, max_length=12)
    assert torch.equal(torch.rand(3), expected)


@torch.no_grad()
def test_generating_step_by_step_without_a_cache(tiny_gpt2: LanguageModel) -> None:
    (draws,) = _draws(["She speaks"], seed=6, length=20)
    ids = tiny_gpt2.tokenizer("She speaks", return_tensors="pt")["input_ids"]
    while ids.shape[1] < 20:
        best = tiny_gpt2.hf(input_ids=ids).logits[0, -1].topk(4)
        bounds = best.values.softmax(-1).cumsum(-1)
        chosen = min(3, sum(bound < draws[ids.shape[1]] for bound in bounds))
        ids = torch.cat([ids, best.indices[chosen].view(1, 1)], dim=1)
    expected = tiny_gpt2.tokenizer.decode(ids[0], skip_special_tokens=True)
    (text,) = generate(tiny_gpt2, ["She speaks"], seed=6, top_k=4, max_length=20)
    assert text == unicodedata.normalize("NFKD", expected).replace("\n\n", " ")


@torch.no_grad()
def test_samples_follow_the_top_k_probabilities(tiny_llama: LanguageModel) -> None:
    ids = tiny_llama.tokenizer("The capital of", return_tensors="pt")["input_ids"]
    best = tiny_llama.hf(input_ids=ids).logits[0, -1].topk(3)
    texts = generate(tiny_llama, ["The capital of"] * 600, top_k=3, max_length=ids.shape[1] + 1)
    for token, share in zip(best.indices, best.values.softmax(-1), strict=True):
        expected = tiny_llama.tokenizer.decode([*ids[0], token], skip_special_tokens=True)
        assert texts.count(expected) / 600 == pytest.approx(share.item(), abs=0.07)


def test_a_prompt_must_fit(tiny_llama: LanguageModel) -> None:
    with pytest.raises(RequestError, match="it must have 1 to 5"):
        generate(tiny_llama, ["The capital of France is Paris and Rome"], max_length=5)
