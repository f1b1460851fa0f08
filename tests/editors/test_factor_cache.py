"""Cholesky factors of wide priors, kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from collabedit.algebra import Prior
from collabedit.editors import factor_cache
from collabedit.editors.factor_cache import null_space_prior_of, prior_of
from collabedit.errors import CovarianceError

WIDTH = 12


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(factor_cache, "SMALLEST_WIDTH", WIDTH)
    return tmp_path


def second_moment(samples: int = 40) -> Tensor:
    x = torch.randn(WIDTH, samples, generator=torch.Generator().manual_seed(0)).double()
    return x @ x.T / samples


def test_a_kept_factor_serves_every_lambda(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior_of(second_moment(), 2.0)
    assert len(list(own_cache.rglob("*.safetensors"))) == 1
    monkeypatch.setattr(Prior, "from_second_moment", None)  # a second factorisation would fail
    prior = prior_of(second_moment(), 7.0)
    assert torch.allclose(prior.cholesky @ prior.cholesky.T, 7.0 * second_moment(), rtol=1e-12)
    assert torch.equal(prior.matrix, 7.0 * second_moment())


def test_narrow_matrices_are_not_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor_cache, "SMALLEST_WIDTH", WIDTH + 1)
    prior_of(second_moment(), 2.0)
    assert not list(own_cache.rglob("*.safetensors"))


def test_a_singular_matrix_is_kept_with_its_shift(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = prior_of(second_moment(samples=3), 2.0)
    assert first.shift > 0
    assert "singular" in caplog.text
    monkeypatch.setattr(Prior, "from_second_moment", None)  # a second factorisation would fail
    again = prior_of(second_moment(samples=3), 4.0)
    assert again.shift == first.shift
    assert torch.allclose(again.matrix, 2 * first.matrix, rtol=1e-15)
    assert torch.allclose(again.cholesky @ again.cholesky.T, again.matrix, rtol=0, atol=1e-14)


def test_a_damaged_file_is_replaced(own_cache: Path) -> None:
    first = prior_of(second_moment(), 2.0)
    (path,) = own_cache.rglob("*.safetensors")
    path.write_bytes(b"damaged")
    assert torch.equal(prior_of(second_moment(), 2.0).cholesky, first.cholesky)
    assert path.stat().st_size > 100


def null_projection(threshold: float) -> Tensor:
    values, vectors = torch.linalg.eigh(second_moment())
    chosen = vectors[:, values < threshold]
    return chosen @ chosen.T


def test_kept_eigenvectors_serve_every_threshold(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle, most = torch.linalg.eigvalsh(second_moment())[[5, 9]].tolist()
    first = null_space_prior_of(second_moment(), middle * 1.001, 2.0)
    (path,) = own_cache.rglob("*.safetensors")
    expected = {threshold: null_projection(threshold) for threshold in (middle * 1.001, most)}
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", None)  # a second decomposition would fail
        second = null_space_prior_of(second_moment(), most, 7.0)
    for prior, weight, threshold in ((first, 2.0, middle * 1.001), (second, 7.0, most)):
        assert prior.basis is not None
        assert torch.allclose(prior.basis @ prior.basis.T, expected[threshold], atol=1e-12)
        assert torch.equal(prior.matrix, weight * torch.eye(prior.basis.shape[1]).double())
        assert prior.size == WIDTH
    path.write_bytes(b"damaged")
    assert torch.equal(null_space_prior_of(second_moment(), most, 7.0).matrix, second.matrix)
    assert path.stat().st_size > 100


def test_an_empty_null_space_is_refused() -> None:
    with pytest.raises(CovarianceError, match="all eigenvalues of the second moment are"):
        null_space_prior_of(second_moment(), 1e-9, 1.0)
    with pytest.raises(CovarianceError, match="NaN or infinite"):
        null_space_prior_of(torch.full((WIDTH, WIDTH), float("nan")), 1.0, 1.0)
