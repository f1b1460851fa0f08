"""The normaliser: it pools exactly, and trusts nothing that it receives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import RoundError
from collabedit.files import tensors_to_bytes
from collabedit.messages import Normaliser

SIZE = 7


def features(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-4, 3, SIZE, dtype=torch.float64)[:, None]
    return scale * torch.randn(SIZE, count, dtype=torch.float64, generator=generator) + 3 * scale


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30).filter(lambda sizes: sum(sizes) > 1))
def test_any_split_pools_to_the_same(sizes: list[int]) -> None:
    everything = features(sum(sizes))
    pooled = Normaliser.pool([Normaliser.of("r", part) for part in everything.split(sizes, dim=1)])
    whole = Normaliser.of("r", everything)
    assert pooled.count == whole.count
    # The mean is three deviations off zero, and a sum of n terms rounds n times at most.
    assert torch.allclose(pooled.mean, whole.mean, rtol=1e-13)
    assert torch.allclose(pooled.scatter, whole.scatter, rtol=1e-12)


def test_it_gives_mean_zero_and_deviation_one() -> None:
    values = features(200)
    normal = Normaliser.of("r", values).normalise(values)
    assert normal.mean(dim=1).abs().max() < 1e-12
    # The constant beside the deviation, 1.2e-7, is a thousandth of the smallest scale here.
    assert torch.allclose(normal.std(dim=1), torch.ones(SIZE, dtype=torch.float64), atol=2e-3)


def test_a_single_feature_is_refused() -> None:
    with pytest.raises(RoundError, match="give more edits"):
        Normaliser.of("r", features(1)).normalise(features(1))


def test_it_round_trips() -> None:
    sent = Normaliser.of("r", features(5))
    back = Normaliser.from_bytes(sent.to_bytes())
    assert (back.round_sha256, back.count) == ("r", 5)
    assert torch.equal(back.mean, sent.mean)
    assert torch.equal(back.scatter, sent.scatter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": torch.full((SIZE,), torch.nan, dtype=torch.float64)}, "mean has NaN"),
        ({"scatter": torch.full((SIZE,), -1.0, dtype=torch.float64)}, "not of the same features"),
        ({"scatter": torch.zeros(SIZE + 1, dtype=torch.float64)}, "not of the same features"),
        ({"mean": torch.zeros(SIZE)}, "mean must be a float64 vector"),
        ({"mean": torch.zeros(SIZE, 2, dtype=torch.float64)}, "mean must be a float64 vector"),
        ({"count": 0}, "count"),
        ({"count": "five"}, "count"),
    ],
)
def test_hostile_normalisers_are_refused(change: dict[str, Any], message: str) -> None:
    tensors, about = Normaliser.of("r", features(5)).pack()
    for name, value in change.items():
        (tensors if name in tensors else about)[name] = value
    with pytest.raises(RoundError, match=message):
        Normaliser.from_bytes(tensors_to_bytes(tensors, about), "reply")


def test_a_normaliser_of_another_round_or_width_is_refused() -> None:
    sent = Normaliser.of("r", features(5))
    sent.check("r", SIZE)
    with pytest.raises(RoundError, match="another round"):
        sent.check("other", SIZE)
    with pytest.raises(RoundError, match="has 7 features; the model has 8"):
        sent.check("r", SIZE + 1)
