from __future__ import annotations

import pytest
import torch

from collabedit.covariance import collect
from tests.covariance.measuring import brute_force, silent


def test_sampling_error_is_that_of_repeated_collections(double_llama, make_corpus):
    """The estimate of one text agrees with the spread over many independent texts."""
    name = double_llama.weight_names([1])[0]
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(24):
        lengths = torch.randint(4, 12, (64,), generator=generator).tolist()
        windows = [torch.randint(2, 250, (n,), generator=generator).tolist() for n in lengths]
        found.append(collect(double_llama, [1], make_corpus(windows), tokens=400))
    moments = torch.stack([one.second_moments[name] for one in found])
    spread = (moments - moments.mean(0)).square().sum() / (len(found) - 1)
    measured = float(spread.sqrt() / moments.mean(0).norm())
    estimated = sum(one.sampling_error[name] for one in found) / len(found)
    assert estimated == pytest.approx(measured, rel=0.2)


def test_sampling_error_of_unequal_blocks_is_as_documented(double_llama, make_corpus):
    windows = [[5] * 9, [6, 7], [8, 9, 10, 11, 12]]
    # Sixteen blocks of at least one token: each window is a block.
    found = collect(double_llama, [0], make_corpus(windows), tokens=16, say=silent)
    name = double_llama.weight_names([0])[0]
    mean = brute_force(double_llama, 0, windows)
    squares = sum(
        len(window) * (brute_force(double_llama, 0, [window]) - mean).square().sum()
        for window in windows
    )
    expected = float((squares / (2 * 16)).sqrt() / mean.norm())
    assert found.sampling_error[name] == pytest.approx(expected, rel=1e-8)


def test_one_block_gives_no_sampling_error(tiny_llama, make_corpus):
    found = collect(tiny_llama, [0], make_corpus([[5, 6, 7]]), tokens=3)
    assert found.sampling_error == {}
