"""The priors that editors describe."""

from __future__ import annotations

import pytest
import torch

from collabedit.editors import CovariancePrior, Hyperparameters, resolve_editor

SIZE = 12


@pytest.fixture
def second_moment() -> torch.Tensor:
    keys = torch.randn(SIZE, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return keys @ keys.T / 40


def test_encores_prior_adds_a_multiple_of_the_identity(second_moment: torch.Tensor) -> None:
    settings = Hyperparameters(layers=(0,), prior_weight=20.0, norm_weight=3.0)
    built = resolve_editor("MEMIT").prior_spec(settings).build(second_moment)
    expected = 20 * second_moment + 3 * torch.eye(SIZE, dtype=torch.float64)
    # Two roundings per entry: a division by lambda, a product with it.
    assert torch.allclose(built.dense(), expected, rtol=4 * torch.finfo(torch.float64).eps)


def test_without_it_the_prior_is_memits(second_moment: torch.Tensor) -> None:
    plain = CovariancePrior(20.0).build(second_moment)
    # One rounding of a product, and of the sum of a matrix and its transpose.
    torch.testing.assert_close(plain.dense(), 20 * second_moment, rtol=4e-16, atol=4e-15)


def test_it_makes_a_singular_second_moment_definite_without_a_shift(
    second_moment: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    key = second_moment[:, :1]
    built = CovariancePrior(20.0, 3.0).build(key @ key.T)
    assert built.shift == 0.0
    assert not caplog.records
    assert torch.isfinite(built.cholesky).all()
