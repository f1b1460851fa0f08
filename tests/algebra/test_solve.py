"""The closed forms of all editors against dense formulas, and what repeated keys do to them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collabedit.algebra import Factors, Moments, Prior, compress, solve
from collabedit.algebra.solve import SMALLEST_SINGULAR_VALUE
from tests.algebra.test_algebra import D_IN, D_OUT, random, relative, second_moment

WEIGHT = 3.0
NULL_WEIGHT = 0.7


def covariance_prior() -> Prior:
    return Prior.from_second_moment(second_moment(), WEIGHT)


def null_basis() -> Tensor:
    """The eigenvectors of the smaller half of the eigenvalues."""
    return torch.linalg.eigh(second_moment()).eigenvectors[:, : D_IN // 2]


def null_prior() -> Prior:
    return Prior.within(null_basis(), NULL_WEIGHT)


@dataclass(frozen=True)
class Form:
    """A prior and a ridge."""

    prior: Prior
    ridge: float


FORMS = {
    "least squares": Form(covariance_prior(), 1.0),
    "equality": Form(covariance_prior(), 0.0),
    "null space": Form(null_prior(), 1.0),
    "null space, equality": Form(null_prior(), 0.0),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def constrained(keys: Tensor, residuals: Tensor, prior: Tensor) -> Tensor:
    """The KKT system of ``min tr(D A0 D^T)`` subject to ``D K = R``, solved densely."""
    n = keys.shape[1]
    top = torch.cat([2 * prior, keys], dim=1)
    bottom = torch.cat([keys.T, torch.zeros(n, n, dtype=keys.dtype)], dim=1)
    right = torch.cat([torch.zeros(D_IN, D_OUT, dtype=keys.dtype), residuals.T])
    return torch.linalg.solve(torch.cat([top, bottom]), right)[:D_IN].T


def alpha_edit(keys: Tensor, residuals: Tensor, past: Tensor) -> Tensor:
    """As in AlphaEdit's published code, with the projection as a dense matrix."""
    projection = null_basis() @ null_basis().T
    system = projection @ (keys @ keys.T + past @ past.T)
    system = system + NULL_WEIGHT * torch.eye(D_IN, dtype=keys.dtype)
    return torch.linalg.solve(system, projection @ keys @ residuals.T).T


def edits(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return random(D_IN, n, seed=seed), random(D_OUT, n, seed=seed + 1)


def parts(keys: Tensor, residuals: Tensor, sizes: list[int]) -> list[Factors]:
    return [
        compress(k, r)
        for k, r in zip(keys.split(sizes, dim=1), residuals.split(sizes, dim=1), strict=True)
    ]


@pytest.mark.parametrize("n", [1, 5, 12])
@pytest.mark.parametrize("past", [0, 3, 20], ids=["static", "low rank", "folded"])
def test_equality_is_the_constrained_minimum(n: int, past: int) -> None:
    keys, residuals = edits(n)
    earlier = random(D_IN, past, seed=7)
    prior = covariance_prior().updated(earlier, 0.5)
    dense = WEIGHT * second_moment() + 0.5 * earlier @ earlier.T
    update = solve(compress(keys, residuals), prior, ridge=0.0)
    assert relative(update.dense(), constrained(keys, residuals, dense)) < 1e-10
    assert relative(update.dense() @ keys, residuals) < 1e-10
    moments = solve(Moments.of(compress(keys, residuals)), prior, ridge=0.0)
    assert relative(moments.dense(), update.dense()) < 1e-9


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("past", [0, 3, 20], ids=["static", "low rank", "folded"])
def test_the_null_space_form_is_alpha_edits(n: int, past: int) -> None:
    keys, residuals = edits(n)
    earlier = random(D_IN, past, seed=7)
    prior = null_prior().updated(earlier, 1.0)
    update = solve(compress(keys, residuals), prior)
    assert relative(update.dense(), alpha_edit(keys, residuals, earlier)) < 1e-10
    moments = solve(Moments.of(compress(keys, residuals)), prior)
    assert relative(moments.dense(), update.dense()) < 1e-10


def test_the_null_space_form_leaves_other_directions_unchanged() -> None:
    keys, residuals = edits(6)
    kept = torch.linalg.eigh(second_moment()).eigenvectors[:, D_IN // 2 :]
    update = solve(compress(keys, residuals), null_prior()).dense()
    assert (update @ kept).norm() < 1e-12 * update.norm()


@forms
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_split_order_and_mixing_gives_the_pooled_update(
    form: Form, sizes: list[int], data: st.DataObject
) -> None:
    n = sum(sizes)
    keys, residuals = edits(n, seed=n)
    prior = form.prior.updated(random(D_IN, 2, seed=3), 1.0)
    pooled = solve(compress(keys, residuals), prior, form.ridge).dense()
    parties = data.draw(st.permutations(parts(keys, residuals, sizes)))
    assert relative(solve(Factors.stack(parties), prior, form.ridge).dense(), pooled) < 1e-10
    mixing, _ = torch.linalg.qr(random(n, n, seed=n + 5))
    mixed = solve(Factors(keys @ mixing, residuals @ mixing), prior, form.ridge).dense()
    assert relative(mixed, pooled) < 1e-10


# Keys shared by several edits


def repeated(change: float = 0.0) -> tuple[Tensor, Tensor]:
    """Four edits and a fifth with the first one's key, slightly changed."""
    keys, residuals = edits(5)
    keys[:, 4] = keys[:, 0] + change * random(D_IN, seed=9)
    return keys, residuals


@pytest.mark.parametrize("sizes", [[5], [4, 1], [1, 1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("change", [0.0, 1e-9, 1e-5], ids=["equal", "rounding", "float32"])
def test_equality_gives_a_repeated_key_the_mean_of_what_it_is_asked(
    sizes: list[int], change: float
) -> None:
    form = FORMS["equality"]
    keys, residuals = repeated(change)
    update = solve(Factors.stack(parts(keys, residuals, sizes)), form.prior, form.ridge).dense()
    mean = (residuals[:, 0] + residuals[:, 4]) / 2
    assert relative(update @ keys[:, 0], mean) < 10 * change + 1e-10
    assert relative(update @ keys[:, 1:4], residuals[:, 1:4]) < 10 * change + 1e-10
    once = torch.cat([mean[:, None], residuals[:, 1:4]], dim=1)
    alone = solve(compress(keys[:, :4], once), form.prior, form.ridge).dense()
    assert relative(update, alone) < 10 * change + 1e-9


@forms
@pytest.mark.parametrize("counts", [(1, 1), (3, 1), (2, 5)], ids=str)
def test_conflicting_answers_are_weighted_by_their_number(
    form: Form, counts: tuple[int, int]
) -> None:
    """The weighted mean at that key: all of it under equality, else ``n s / (1 + n s)`` of it."""
    n, key, answers = sum(counts), random(D_IN, 1, seed=4), random(D_OUT, 2, seed=5)
    residuals = torch.cat(
        [answers[:, :1].expand(-1, counts[0]), answers[:, 1:].expand(-1, counts[1])], dim=1
    )
    parties = parts(key.expand(-1, n), residuals, [counts[0], counts[1]])
    update = solve(Factors.stack(parties), form.prior, form.ridge).dense()
    mean = (counts[0] * answers[:, :1] + counts[1] * answers[:, 1:]) / n
    strength = float(form.prior.whiten(key).norm() ** 2)
    written = n * strength / (1 + n * strength) if form.ridge else 1.0
    if form.prior.basis is None or form.ridge:
        assert relative(update @ key, written * mean) < 1e-10
    once = solve(compress(key, mean), form.prior, 0.0).dense()
    assert relative(update, written * once) < 1e-10


@forms
def test_a_consistent_repeated_edit_holds_like_a_single_one(form: Form) -> None:
    keys, residuals = repeated()
    residuals[:, 4] = residuals[:, 0]
    update = solve(compress(keys, residuals), form.prior, form.ridge).dense()
    once = solve(compress(keys[:, :4], residuals[:, :4]), form.prior, form.ridge).dense()
    if form.ridge == 0:  # said twice is said
        assert relative(update, once) < 1e-9
    else:  # an edit said twice weighs twice
        doubled = torch.cat([keys[:, :1] * 2**0.5, keys[:, 1:4]], dim=1)
        wanted = torch.cat([residuals[:, :1] * 2**0.5, residuals[:, 1:4]], dim=1)
        weighed = solve(compress(doubled, wanted), form.prior, form.ridge).dense()
        assert relative(update, weighed) < 1e-10


@pytest.mark.parametrize("change", [10.0**-i for i in range(12)])
def test_nearly_equal_keys_in_conflict_do_not_blow_up(change: float) -> None:
    form = FORMS["equality"]
    keys, residuals = repeated(change)
    update = solve(compress(keys, residuals), form.prior, form.ridge)
    size = form.prior.cholesky.T @ update.dense().T  # the update in the prior's norm
    smallest = SMALLEST_SINGULAR_VALUE * torch.linalg.matrix_norm(form.prior.whiten(keys), 2)
    assert size.norm() <= residuals.norm() / smallest


def test_more_edits_than_directions_under_equality_are_fitted_by_least_squares() -> None:
    keys, residuals = edits(3 * D_IN)
    update = solve(compress(keys, residuals), covariance_prior(), ridge=0.0).dense()
    expected = torch.linalg.lstsq(keys.T, residuals.T).solution.T
    assert relative(update, expected) < 1e-9


@forms
def test_folding_past_keys_of_many_rounds_changes_nothing(form: Form) -> None:
    keys, residuals = edits(4)
    low_rank = folded = form.prior
    for seed in range(3):
        low_rank = low_rank.updated(random(D_IN, 1, seed=seed), 2.0)
    stacked = torch.cat([random(D_IN, 1, seed=seed) for seed in range(3)], dim=1)
    inside = stacked if form.prior.basis is None else form.prior.basis.T @ stacked
    folded = Prior(form.prior.matrix + 2.0 * inside @ inside.T, basis=form.prior.basis)
    assert low_rank.past is not None
    expected = solve(compress(keys, residuals), folded, form.ridge).dense()
    found = solve(compress(keys, residuals), low_rank, form.ridge).dense()
    assert relative(found, expected) < 1e-10


def test_whitening_is_a_root_of_the_inverse() -> None:
    for form in FORMS.values():
        prior = form.prior.updated(100.0 * random(D_IN, 3), 1.0)
        identity = torch.eye(D_IN, dtype=torch.float64)
        basis = identity if prior.basis is None else prior.basis
        inverse = basis @ torch.linalg.inv(prior.dense()) @ basis.T
        assert relative(prior.unwhiten(prior.whiten(identity)), inverse) < 1e-10
