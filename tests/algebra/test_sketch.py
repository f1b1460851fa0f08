"""Sums of statistics: exact in both forms, however the edits are split over parties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collabedit.algebra import Factors, Moments, Prior, compress, relative_distance, solve
from collabedit.algebra.sketch import (
    OVERSAMPLING,
    DenseSum,
    SketchedSum,
    cheaper_dense,
    sketch_matrix,
)
from collabedit.errors import RoundError

D_IN, D_OUT = 40, 12


def random_prior(generator: torch.Generator, size: int = D_IN, condition: float = 1e3) -> Prior:
    """A prior with a spectrum between 1 and ``1 / condition``."""
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), size, dtype=torch.float64)
    return Prior.from_second_moment(basis * values @ basis.T, 1.0)


def random_edits(
    generator: torch.Generator, count: int, spread: float = 1.0, repeated: int = 0
) -> tuple[Tensor, Tensor]:
    """``K [d_in, n]`` differing in size by ``spread``, the last ones repeating the first."""
    keys = torch.randn(D_IN, count, generator=generator, dtype=torch.float64)
    keys *= torch.logspace(0, -torch.tensor(spread).log10().item(), count, dtype=torch.float64)
    if repeated:
        keys[:, count - repeated :] = keys[:, :repeated]
    return keys, torch.randn(D_OUT, count, generator=generator, dtype=torch.float64)


def split(keys: Tensor, residuals: Tensor, parties: int) -> list[Factors]:
    """The edits dealt to parties in turn."""
    return [
        compress(keys[:, party::parties], residuals[:, party::parties]) for party in range(parties)
    ]


cases = st.fixed_dictionaries(
    {
        "count": st.integers(3, 15),
        "parties": st.integers(1, 3),
        "repeated": st.integers(0, 1),
        "spread": st.sampled_from([1.0, 30.0, 700.0]),
        "seed": st.integers(0, 10**6),
    }
)


@given(cases)
@settings(max_examples=60, deadline=None)
def test_both_forms_give_the_pooled_statistics(case: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(int(case["seed"]))
    count = int(case["count"])
    prior = random_prior(generator)
    keys, residuals = random_edits(generator, count, case["spread"], int(case["repeated"]))
    parts = split(keys, residuals, int(case["parties"]))
    reference = residuals @ keys.T @ torch.linalg.inv(prior.matrix + keys @ keys.T)
    sketch = sketch_matrix(prior, 15 + OVERSAMPLING, seed=1)
    for form in (DenseSum(D_IN, D_OUT), SketchedSum(sketch, D_OUT, 15)):
        vectors = [form.pack(part) for part in parts]
        assert all(vector.shape == (form.length,) for vector in vectors)
        total = form.unpack(sum(vectors[1:], vectors[0])).to_moments()
        moment = keys @ keys.T
        assert (total.key_moment - moment).norm() <= 1e-11 * moment.norm()
        update = solve(form.unpack(sum(vectors[1:], vectors[0])), prior).dense()
        # The keys of the least edit carry 1 / spread^2 of M, and lose as many digits.
        bound = 1e-12 * case["spread"] ** 2 + 1e-11
        assert (update - reference).norm() <= bound * reference.norm()


@pytest.mark.parametrize("form", ["dense", "sketched"])
def test_the_order_of_parties_and_edits_makes_no_difference(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prior = random_prior(generator)
    keys, residuals = random_edits(generator, 9)
    sums = {
        "dense": DenseSum(D_IN, D_OUT),
        "sketched": SketchedSum(sketch_matrix(prior, 29, 0), D_OUT, 9),
    }[form]
    shuffled = torch.randperm(9, generator=generator)
    first = split(keys, residuals, 3)
    second = split(keys[:, shuffled], residuals[:, shuffled], 4)[::-1]
    updates = [
        solve(sums.unpack(sum((sums.pack(part) for part in parts[1:]), sums.pack(parts[0]))), prior)
        for parts in (first, second)
    ]
    assert relative_distance(*updates) < 1e-10  # eps times a condition of 1e5


def test_more_edits_than_agreed_are_refused_and_never_cut_off() -> None:
    generator = torch.Generator().manual_seed(3)
    prior = random_prior(generator)
    sketch = sketch_matrix(prior, 5 + OVERSAMPLING, seed=0)
    form = SketchedSum(sketch, D_OUT, max_rank=5)
    for count in (6, 20, 24, 25, 26, 40):
        keys, residuals = random_edits(generator, count)
        with pytest.raises(RoundError, match="the round allows 5 of all parties"):
            form.unpack(form.pack(Factors(keys, residuals)))
    keys, residuals = random_edits(generator, 5)
    assert form.unpack(form.pack(Factors(keys, residuals))).rank == 5


def test_repeated_edits_of_several_parties_only_lower_the_rank() -> None:
    generator = torch.Generator().manual_seed(4)
    prior = random_prior(generator)
    keys, residuals = random_edits(generator, 4)
    form = SketchedSum(sketch_matrix(prior, 12 + OVERSAMPLING, 0), D_OUT, 12)
    one = form.pack(Factors(keys, residuals))
    pooled = form.unpack(3 * one)
    assert pooled.rank == 4
    expected = Moments(3 * keys @ keys.T, 3 * residuals @ keys.T)
    torch.testing.assert_close(pooled.to_moments().cross_moment, expected.cross_moment)


def test_a_projecting_prior_keeps_what_an_update_needs() -> None:
    """AlphaEdit considers keys only within a subspace, and so does its sketch."""
    generator = torch.Generator().manual_seed(5)
    basis, _ = torch.linalg.qr(torch.randn(D_IN, 25, generator=generator, dtype=torch.float64))
    prior = Prior.within(basis, 1.0)
    keys, residuals = random_edits(generator, 8)
    parts = split(keys, residuals, 2)
    form = SketchedSum(sketch_matrix(prior, 8 + OVERSAMPLING, 0), D_OUT, 8)
    total = form.pack(parts[0]) + form.pack(parts[1])
    assert relative_distance(solve(form.unpack(total), prior), solve(parts, prior)) < 1e-11


def test_equality_holds_on_the_sum_too() -> None:
    generator = torch.Generator().manual_seed(6)
    prior = random_prior(generator)
    keys, residuals = random_edits(generator, 6)
    form = SketchedSum(sketch_matrix(prior, 6 + OVERSAMPLING, 0), D_OUT, 6)
    update = solve(form.unpack(form.pack(compress(keys, residuals))), prior, ridge=0.0).dense()
    torch.testing.assert_close(update @ keys, residuals, rtol=1e-9, atol=1e-9)


def test_the_smaller_form_is_chosen() -> None:
    # GPT-J with 500 edits: 11 M numbers per layer against 200 M.
    assert not cheaper_dense(16384, 4096, 500)
    assert SketchedSum(torch.zeros(16384, 520), 4096, 500).length == 10_649_600
    assert DenseSum(16384, 4096).length == 201_334_784
    assert cheaper_dense(1536, 576, 1000)
    assert not cheaper_dense(1536, 576, 100)
