from __future__ import annotations

from itertools import islice
from typing import Any

import torch

from collabedit.covariance import SelfCorpus
from collabedit.covariance.corpus import Plan


def sampled(model: Any, seed: int, tokens: int = 600, start: int = 0) -> list[list[int]]:
    plan = Plan(tokens, 32, 10)
    (chunk,) = islice(SelfCorpus(seed).chunks(model, plan, start, lambda _n: None), 1)
    return [list(window) for window in chunk]


def test_samples_are_seeded_and_varied(tiny_llama):
    texts = sampled(tiny_llama, 0)
    assert [len(text) for text in texts] == [32] * 19
    assert texts == sampled(tiny_llama, 0)
    assert texts != sampled(tiny_llama, 1)
    assert texts != sampled(tiny_llama, 0, start=1)
    assert len({text[0] for text in texts}) > 5
    assert len({tuple(text[1:4]) for text in texts}) == len(texts)
    assert not {0, 1} & {id_ for text in texts for id_ in text}


def test_samples_begin_as_the_tokenizer_begins_texts(tiny_llama, bos_tokenizer):
    from dataclasses import replace

    texts = sampled(replace(tiny_llama, tokenizer=bos_tokenizer), 0)
    assert {text[0] for text in texts} == {0}
    assert len({text[1] for text in texts}) > 5
    assert not {0, 1} & {id_ for text in texts for id_ in text[1:]}
    assert {len(text) for text in texts} == {32}


def test_samples_follow_the_model(tiny_llama):
    """The token frequencies after a beginning are the model's probabilities."""
    from collabedit.covariance.self_corpus import _sample

    texts = torch.tensor(
        _sample(tiny_llama, 4000, 2, torch.Generator().manual_seed(0), lambda _n: None)
    )
    first = int(texts[:, 0].mode().values)
    logits = tiny_llama.hf(input_ids=torch.tensor([[first]])).logits[0, -1]
    logits[:2] = -torch.inf
    expected = torch.softmax(logits, -1)
    followers = texts[texts[:, 0] == first, 1]
    found = torch.bincount(followers, minlength=len(expected)) / len(followers)
    assert (found - expected).abs().sum() / 2 < 0.8 * (1 - 1 / len(expected))
    top = expected.topk(5).indices
    error = (expected[top].sum() / len(followers)).sqrt()
    assert abs(float(found[top].sum() - expected[top].sum())) < 4 * float(error)


def test_reports_the_tokens_it_generates(tiny_llama):
    reported: list[int] = []
    chunks = SelfCorpus(0).chunks(tiny_llama, Plan(100, 16, 10), 0, reported.append)
    assert sum(len(window) for window in next(chunks)) == sum(reported)
