"""Second moments of several texts, pooled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from collabedit.covariance import collect, merge
from collabedit.errors import CovarianceError
from tests.messages.test_covariance import covariance  # noqa: F401


def test_merging_halves_gives_the_whole(double_llama, corpus, corpus_tokens, make_corpus):
    halves = [make_corpus(corpus.windows[:15]), make_corpus(corpus.windows[15:])]
    whole = collect(double_llama, [0, 1], corpus, tokens=corpus_tokens)
    parts = [
        collect(double_llama, [0, 1], half, tokens=sum(map(len, half.windows))) for half in halves
    ]
    pooled = merge(parts)
    assert pooled.samples == whole.samples
    for name, moment in whole.second_moments.items():
        assert torch.allclose(pooled.second_moments[name], moment, rtol=1e-10, atol=0)
        assert pooled.sampling_error[name] == pytest.approx(whole.sampling_error[name], rel=0.5)
    assert pooled.corpus == "given tokens + given tokens"


def test_merging_equal_parts_lowers_the_error_by_the_root_of_two(covariance):  # noqa: F811
    pooled = merge([covariance, covariance])
    assert pooled.samples == 100
    for name, error in covariance.sampling_error.items():
        assert pooled.sampling_error[name] == pytest.approx(error / 2**0.5)
    unknown = merge([covariance, replace(covariance, sampling_error={})])
    assert unknown.sampling_error == {}


def test_refuses_to_merge_different_weights(covariance):  # noqa: F811
    name = "model.layers.1.mlp.down_proj.weight"
    other = replace(covariance, model="other", model_sha256={**covariance.model_sha256, name: "x"})
    with pytest.raises(CovarianceError, match="covariances of different weights"):
        merge([covariance, other])
    with pytest.raises(CovarianceError, match="no covariance to merge"):
        merge([])
