from __future__ import annotations

from dataclasses import replace
from itertools import chain

from collabedit.covariance import Plan, SelfCorpus, WrittenCorpus, own_corpus
from collabedit.covariance.sizing import default_tokens
from collabedit.models import LanguageModel

KEPT = WrittenCorpus("smollm2-135m")


def test_the_written_text_suffices_for_the_default(smollm2: LanguageModel) -> None:
    tokens = default_tokens(smollm2, KEPT)
    assert own_corpus(smollm2, None, seed=3) == KEPT
    assert own_corpus(smollm2, tokens, seed=3) == KEPT
    assert KEPT.texts.size == tokens
    assert not set(smollm2.tokenizer.all_special_ids) & set(KEPT.texts.flatten().tolist())
    text = smollm2.tokenizer.decode(KEPT.texts[0].tolist())
    assert sum(char.isalpha() or char.isspace() for char in text) > 0.8 * len(text)


def test_larger_requests_are_sampled(tiny_llama: LanguageModel) -> None:
    named = replace(tiny_llama, name="smollm2-135m")
    assert own_corpus(named, KEPT.texts.size + 1, seed=3) == SelfCorpus(3)
    assert own_corpus(tiny_llama, None, seed=3) == SelfCorpus(3)
    assert own_corpus(replace(named, name="/somewhere/smollm2-135m"), None, 3) == SelfCorpus(3)


def test_chunks_are_the_windows_in_order(tiny_llama: LanguageModel) -> None:
    reported: list[int] = []
    plan = Plan(KEPT.texts.size, max_length=50, chunk_tokens=300)
    chunks = list(KEPT.chunks(tiny_llama, plan, 0, reported.append))
    assert list(chain(*chain(*chunks))) == KEPT.texts.flatten().tolist()
    assert {len(window) for chunk in chunks for window in chunk} == {50, 28}  # 128 = 50 + 50 + 28
    assert sum(reported) == KEPT.texts.size
    assert list(KEPT.chunks(tiny_llama, plan, 2, lambda _n: None)) == chunks[2:]
