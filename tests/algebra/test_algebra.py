"""The closed forms against dense formulas, on synthetic statistics in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collabedit.algebra import (
    Factors,
    LowRankUpdate,
    Missed,
    Moments,
    Prior,
    Statistics,
    compress,
    condition_number,
    missed,
    solve,
)
from collabedit.algebra.solve import prefers_factors
from collabedit.errors import CovarianceError

D_IN, D_OUT = 24, 10


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_moment(seed: int = 0) -> Tensor:
    x = random(D_IN, 3 * D_IN, seed=seed)
    return x @ x.T / (3 * D_IN)


def dense_update(keys: Tensor, residuals: Tensor, prior: Tensor) -> Tensor:
    return residuals @ keys.T @ torch.linalg.inv(prior + keys @ keys.T)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@given(
    n=st.integers(1, 60),
    weight=st.floats(0.1, 1e4),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_both_forms_equal_the_dense_formula(n: int, weight: float, seed: int) -> None:
    keys, residuals = random(D_IN, n, seed=seed), random(D_OUT, n, seed=seed + 1)
    prior = Prior.from_second_moment(second_moment(), weight)
    factors = compress(keys, residuals)
    expected = dense_update(keys, residuals, weight * second_moment())
    assert relative(solve(factors, prior).dense(), expected) < 1e-10
    assert relative(solve(Moments.of(factors), prior).dense(), expected) < 1e-10


def test_factors_carry_the_statistics_and_not_the_edits() -> None:
    keys, residuals = random(D_IN, 7), random(D_OUT, 7, seed=1)
    factors = compress(keys, residuals)
    assert relative(factors.keys @ factors.keys.T, keys @ keys.T) < 1e-13
    assert relative(factors.residuals @ factors.keys.T, residuals @ keys.T) < 1e-13
    assert torch.allclose(factors.keys.T @ factors.keys, torch.diag(factors.keys.norm(dim=0) ** 2))


def test_duplicate_keys_only_lower_the_rank() -> None:
    keys, residuals = random(D_IN, 5), random(D_OUT, 5, seed=1)
    doubled = torch.cat([keys, keys[:, :2]], dim=1)
    more = torch.cat([residuals, random(D_OUT, 2, seed=2)], dim=1)
    factors = compress(doubled, more)
    assert factors.rank == 5
    prior = Prior.from_second_moment(second_moment(), 10.0)
    expected = dense_update(doubled, more, 10.0 * second_moment())
    assert relative(solve(factors, prior).dense(), expected) < 1e-10


def test_more_edits_than_the_width_of_a_key() -> None:
    keys, residuals = random(D_IN, 3 * D_IN), random(D_OUT, 3 * D_IN, seed=1)
    assert compress(keys, residuals).rank == D_IN


def test_the_cheaper_form_is_chosen() -> None:
    assert prefers_factors(rank=500, d_in=16384, d_out=4096)
    assert not prefers_factors(rank=20000, d_in=16384, d_out=4096)


def test_a_singular_second_moment_is_shifted_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = random(D_IN, 5)
    prior = Prior.from_second_moment(few @ few.T, 2.0)
    assert "too few samples" in caplog.text
    assert relative(prior.cholesky @ prior.cholesky.T, prior.matrix) < 1e-12
    assert relative(prior.matrix, 2.0 * few @ few.T) < 1e-5


def test_a_shift_covers_the_rounding_of_a_wide_singular_moment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Products in float32 leave eigenvalues below zero by more, the wider the matrix is."""
    few = random(D_IN, 5)
    moment = few @ few.T
    moment.diagonal().sub_(2e-5 * moment.diagonal().mean())
    prior = Prior.from_second_moment(moment, 2.0)
    assert "1e-04 of its mean" in caplog.text
    assert relative(prior.matrix, 2.0 * moment) < 1e-3


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (torch.full((4, 4), float("nan")), "NaN"),
        (-torch.eye(4), "not positive semi-definite"),
    ],
)
def test_unusable_second_moments_are_refused(moment: Tensor, message: str) -> None:
    with pytest.raises(CovarianceError, match=message):
        Prior.from_second_moment(moment, 1.0)


@pytest.mark.parametrize("past", [2, 4, 30], ids=["low rank", "two rounds", "folded"])
def test_the_dynamic_prior_adds_the_keys(past: int) -> None:
    prior = Prior.from_second_moment(second_moment(), 3.0)
    dense = 3.0 * second_moment()
    for seed in range(2):
        keys = random(D_IN, past, seed=seed)
        prior = prior.updated(keys, 0.5)
        dense = dense + 0.5 * keys @ keys.T
    assert relative(prior.dense(), dense) < 1e-14
    keys, residuals = random(D_IN, 3, seed=5), random(D_OUT, 3, seed=6)
    update = solve(compress(keys, residuals), prior)
    assert relative(update.dense(), dense_update(keys, residuals, dense)) < 1e-10
    assert update.left.shape[1] == 3
    moments = solve(Moments.of(compress(keys, residuals)), prior)
    assert relative(moments.dense(), update.dense()) < 1e-10


def test_a_low_rank_past_keeps_the_cholesky_factor() -> None:
    prior = Prior.from_second_moment(second_moment(), 3.0)
    assert prior.updated(random(D_IN, 2), 1.0).cholesky is prior.cholesky


def test_zero_weight_is_the_static_prior() -> None:
    prior = Prior.from_second_moment(second_moment(), 3.0)
    assert prior.updated(random(D_IN, 4), 0.0) is prior


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_a_dense_update_is_kept_exactly(shape: tuple[int, int]) -> None:
    delta = random(*shape)
    update = LowRankUpdate.from_dense(delta)
    assert torch.equal(update.dense(), delta)
    assert update.shape == shape
    assert update.left.shape[1] == 3


def test_stacked_factors_are_the_pooled_edits() -> None:
    parts = [compress(random(D_IN, n, seed=n), random(D_OUT, n, seed=9 + n)) for n in (2, 5, 1)]
    stacked = Factors.stack(parts)
    summed = sum((Moments.of(part) for part in parts[1:]), Moments.of(parts[0]))
    assert relative(Moments.of(stacked).key_moment, summed.key_moment) < 1e-14
    assert relative(Moments.of(stacked).cross_moment, summed.cross_moment) < 1e-14


def test_digests_distinguish_updates() -> None:
    left, right = torch.ones(3, 2, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.float64)
    update = LowRankUpdate(left, right)
    assert LowRankUpdate(left.clone(), right.T.contiguous().T).sha256 == update.sha256
    others = [
        LowRankUpdate(left, right + 1),
        LowRankUpdate(left.float(), right.float()),
        LowRankUpdate(left[:2], right),
        LowRankUpdate(right.T, left.T),
    ]
    assert len({update.sha256, *(other.sha256 for other in others)}) == 5


def test_condition_number():
    spectrum = torch.tensor([1e-3, 0.5, 2.0, 40.0], dtype=torch.float64)
    rotation, _ = torch.linalg.qr(
        torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    matrix = rotation @ torch.diag(spectrum) @ rotation.T
    assert condition_number((matrix + matrix.T) / 2) == pytest.approx(4e4, rel=1e-6)
    assert condition_number(torch.zeros(2, 2, dtype=torch.float64)) == float("inf")


@pytest.mark.parametrize("seed", range(40))
def test_a_rank_deficient_second_moment_never_counts_as_definite(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of rank d - 1: rounding leaves a last pivot that may be positive."""
    size = 80
    x = random(size, size - 1, seed=seed)
    prior = Prior.from_second_moment(x @ x.T / (size - 1), 5.0)
    assert prior.shift > 0
    assert "singular" in caplog.text
    keys, residuals = random(size, 12, seed=seed + 100), random(D_OUT, 12, seed=seed + 200)
    parts = [
        compress(k, r)
        for k, r in zip(keys.split([5, 4, 3], 1), residuals.split([5, 4, 3], 1), strict=True)
    ]
    merged, pooled = solve(parts, prior).dense(), solve(compress(keys, residuals), prior).dense()
    # The smallest eigenvalue is the shift: 1e-10 of the mean. Rounding is amplified by its inverse.
    assert relative(merged, pooled) < size * torch.finfo(torch.float64).eps / prior.shift


@pytest.mark.parametrize("past", [1, D_IN], ids=["low rank", "folded"])
def test_a_shift_is_remembered_in_later_rounds(past: int) -> None:
    few = random(D_IN, 5)
    prior = Prior.from_second_moment(few @ few.T, 2.0)
    assert prior.updated(random(D_IN, past), 1.0).shift == prior.shift > 0


def test_a_definite_second_moment_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    spectrum = torch.logspace(-9, 0, 40, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(random(40, 40))
    moment = rotation @ torch.diag(spectrum) @ rotation.T
    assert Prior.from_second_moment(moment, 1.0).shift == 0
    assert not caplog.records


def test_moments_and_factors_are_one_interface() -> None:
    parts = [compress(random(D_IN, n, seed=n), random(D_OUT, n, seed=9 + n)) for n in (3, 4)]
    moments = [part.to_moments() for part in parts]
    for mixed in (parts, moments, [parts[0], moments[1]]):
        pooled = Statistics.pool(mixed)
        assert (pooled.d_in, pooled.d_out) == (D_IN, D_OUT)
        factor = pooled.key_factor()
        assert factor.shape == (D_IN, 7)
        expected = Factors.stack(parts).to_moments()
        assert relative(factor @ factor.T, expected.key_moment) < 1e-13
        prior = Prior.from_second_moment(second_moment(), 2.0)
        assert relative(solve(mixed, prior).dense(), solve(parts, prior).dense()) < 1e-11
        updated = prior.updated(pooled, 3.0).dense()
        assert relative(updated, prior.dense() + 3.0 * expected.key_moment) < 1e-13
    assert moments[0].residual_norm is None
    assert parts[0].residual_norm == pytest.approx(float(random(D_OUT, 3, seed=12).norm()))


@pytest.mark.parametrize("sizes", [[197], [100, 97], [50, 50, 97]])
def test_missed_constraints_are_counted_for_any_split(sizes: list[int]) -> None:
    """Nearly as many random keys as inputs: some directions are cut off."""
    keys, residuals = random(200, 197), random(D_OUT, 197, seed=1)
    prior = Prior(torch.eye(200, dtype=torch.float64))
    parts = [
        compress(k, r) for k, r in zip(keys.split(sizes, 1), residuals.split(sizes, 1), strict=True)
    ]
    update = solve(parts, prior, 0.0)
    found = missed(update, parts)
    exact = update.dense() @ keys - residuals  # by edits, not by mixed directions
    scale = residuals.norm() / 197**0.5
    sizes_ = torch.linalg.svdvals(exact) / scale
    assert found.count == int((sizes_ > 0.01).sum()) > 0
    off = exact.norm(dim=0) > 0.01 * residuals.norm(dim=0)
    assert off.sum() > 10 * found.count  # combinations are counted, not edits
    assert found.worst == pytest.approx(float(sizes_.max()), rel=1e-9)


def test_edits_that_hold_are_not_missed() -> None:
    keys, residuals = random(D_IN, 5), random(D_OUT, 5, seed=1)
    prior = Prior.from_second_moment(second_moment(), 2.0)
    own = compress(keys, residuals)
    assert missed(solve(own, prior, 0.0), [own]).count == 0
    agreeing = [own, compress(keys[:, :1], residuals[:, :1])]
    assert missed(solve(agreeing, prior, 0.0), agreeing).count == 0
    still = compress(keys, 0 * residuals)
    assert missed(solve(still, prior, 0.0), [still]) == Missed(0, 0.0)


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_misses_do_not_depend_on_who_holds_repeated_keys(rounding: float) -> None:
    """Contradictions too: a party folds its own before anyone can count them."""
    keys, residuals = random(200, 197), random(D_OUT, 197, seed=1)
    prior = Prior(torch.eye(200, dtype=torch.float64))
    again = keys[:, :3] * (1 + rounding * random(200, 3, seed=2))
    other = -residuals[:, :3]
    alone = [compress(torch.cat([keys, again], 1), torch.cat([residuals, other], 1))]
    split = [compress(keys[:, :90], residuals[:, :90]), compress(keys[:, 90:], residuals[:, 90:])]
    split.append(compress(again, other))
    one, several = (missed(solve(parts, prior, 0.0), parts) for parts in (alone, split))
    assert one.count == several.count > 0
    assert one.worst == pytest.approx(several.worst, rel=1e-9)
