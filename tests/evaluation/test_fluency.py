from __future__ import annotations

import json
import math
import sys
import unicodedata
from pathlib import Path

import pytest
import torch

from collabedit.errors import MissingExtraError, RequestError
from collabedit.evaluation.fluency import (
    _WORD,
    _draws,
    consistency,
    evaluate_generations,
    generate,
    ngram_entropy,
    reference_vectorizer,
)
from collabedit.models import LanguageModel
from collabedit.requests import EditRequest, Record

PROMPTS = ["The capital of France is", "She speaks", "The capital of France is", "Rome"]


def test_entropy_by_hand() -> None:
    # Four equal 2-grams (2 bits) and three equal 3-grams: (2/3 * 2 + 4/3 * log2 3) / 2.
    assert ngram_entropy("a b c d e") == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    assert ngram_entropy("a a a a a a") == 0.0
    assert ngram_entropy("one") == ngram_entropy("") == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't go; it's John's.", "Do n't go ; it 's John 's ."),
        ("state-of-the-art (3.14) self.ruler", "state-of-the-art ( 3.14 ) self.ruler"),
        ("O'Neill, wait... We'll", "O'Neill , wait ... We 'll"),
    ],
)
def test_words_follow_the_treebank(text: str, words: str) -> None:
    assert _WORD.findall(text) == words.split()


def test_entropy_is_near_the_original_codes(reference: Path) -> None:
    units = json.loads((reference / "metric_units.json").read_text("utf-8"))
    for text, expected in zip(units["texts"], units["ngram_entropy"], strict=True):
        assert ngram_entropy(text) == pytest.approx(expected, abs=0.02)


def test_consistency_is_the_original_codes(reference: Path) -> None:
    numpy = pytest.importorskip("numpy")
    text = pytest.importorskip("sklearn.feature_extraction.text")
    units = json.loads((reference / "metric_units.json").read_text("utf-8"))
    vectorizer = text.TfidfVectorizer()
    vectorizer.vocabulary_ = json.loads((reference / "tfidf_vocab.json").read_text("utf-8"))
    vectorizer.idf_ = numpy.load(reference / "idf.npy")
    for first, second, expected in units["tfidf_pairs"]:
        texts = units["texts"]
        assert consistency(texts[first], texts[second], vectorizer) == pytest.approx(expected)


def test_consistency_of_equal_and_of_foreign_texts() -> None:
    pytest.importorskip("sklearn")
    vectorizer = reference_vectorizer(["Paris is a city", "French is a tongue"])
    assert consistency("a city is Paris", "Paris is a city", vectorizer) == pytest.approx(1.0)
    assert consistency("Москва", "Paris is a city", vectorizer) == 0.0


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(MissingExtraError, match=r'pip install "collabedit\[text\]"'):
        reference_vectorizer(["Paris"])


def test_a_text_depends_on_its_prompt_and_the_seed_only(tiny_llama: LanguageModel) -> None:
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


def test_records_get_their_own_generations(tiny_llama: LanguageModel) -> None:
    pytest.importorskip("sklearn")
    request = EditRequest(1, "The capital of {} is", "France", "Rome")
    records = [
        Record(request, generation_prompts=("The capital", "France is")),
        Record(request),
        Record(request, generation_prompts=("Rome is",), reference_texts=("Rome is a city",)),
    ]
    first, second, third = evaluate_generations(tiny_llama, records, max_length=30)
    assert [text[:6] for text in first["text"]] == ["The ca", "France"]
    assert first["ngram_entropy"] == pytest.approx(sum(map(ngram_entropy, first["text"])) / 2)
    assert "reference_score" not in first
    assert second == {}
    assert 0 < third["reference_score"] <= 1
