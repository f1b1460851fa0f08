"""Priors in blocks against the full matrix that they represent, and the formula for experts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from collabedit.algebra import BlockPrior, Factors, Moments, Prior, compress, solve
from collabedit.algebra.sketch import SketchedSum, sketch_matrix

WIDTHS, D_OUT = (7, 5, 9), 6
#: Solves of well-conditioned systems of width 21 keep all but a few of float64's 16 digits.
EXACT = 1e-11


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def blocks() -> list[Tensor]:
    moments = []
    for seed, width in enumerate(WIDTHS):
        sample = random(width, 4 * width, seed=seed)
        moments.append(sample @ sample.T / (4 * width))
    return moments


def prior(weight: float = 3.0) -> BlockPrior:
    return BlockPrior([Prior.from_second_moment(block, weight) for block in blocks()])


def whole(weight: float = 3.0) -> Prior:
    return Prior.from_second_moment(torch.block_diag(*blocks()), weight)


def keys(number: int = 8, seed: int = 10) -> Tensor:
    """Keys that each lack a part, like tokens that an expert does not see."""
    parts = list(random(sum(WIDTHS), number, seed=seed).split(WIDTHS))
    for column in range(number):
        parts[column % 3][:, column] = 0
    return torch.cat(parts)


def residuals(number: int = 8, seed: int = 20) -> Tensor:
    return random(D_OUT, number, seed=seed)


def check_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).norm() <= EXACT * expected.norm()


def test_each_experts_update_matches_the_formula() -> None:
    """``Delta_e = G (I + sum_e F_e^T A_e^-1 F_e)^-1 F_e^T A_e^-1``, by plain inverses."""
    factors, own = compress(keys(), residuals()), [3.0 * block for block in blocks()]
    parts = factors.keys.split(WIDTHS)
    gram = sum(f.T @ torch.linalg.inv(a) @ f for f, a in zip(parts, own, strict=True))
    core = factors.residuals @ torch.linalg.inv(torch.eye(factors.rank) + gram)
    expected = [core @ f.T @ torch.linalg.inv(a) for f, a in zip(parts, own, strict=True)]
    delta = solve(factors, prior()).dense()
    for found, wanted in zip(delta.split(WIDTHS, dim=1), expected, strict=True):
        check_close(found, wanted)


@pytest.mark.parametrize("ridge", [1.0, 0.0])
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_the_update_equals_that_of_the_full_matrix(ridge: float, beta: float) -> None:
    past = [keys(4, seed=30), keys(19, seed=31)]  # more than are kept apart in one matrix
    apart: Prior = prior()
    together: Prior = whole()
    for own in past:
        apart, together = apart.updated(own, beta), together.updated(own, beta)
    factors = compress(keys(), residuals())
    check_close(solve(factors, apart, ridge).dense(), solve(factors, together, ridge).dense())
    check_close(apart.dense(), together.dense())


def test_update_equals_the_dense_block_solve() -> None:
    system = torch.block_diag(*(3.0 * block for block in blocks())) + keys() @ keys().T
    expected = torch.linalg.solve(system, keys() @ residuals().T).T
    check_close(solve(compress(keys(), residuals()), prior()).dense(), expected)


@pytest.mark.parametrize("parties", [1, 2, 4])
@pytest.mark.parametrize("ridge", [1.0, 0.0])
def test_parties_together_are_the_pooled_edit(parties: int, ridge: float) -> None:
    """Also with more edits than the keys are wide, where one matrix would be summed first."""
    number = 60 if ridge else 12
    k, r = keys(number), residuals(number)
    pooled = solve(compress(k, r), prior(), ridge).dense()
    shares = zip(k.tensor_split(parties, dim=1), r.tensor_split(parties, dim=1), strict=True)
    merged = solve([compress(own, wanted) for own, wanted in shares], prior(), ridge)
    check_close(merged.dense(), pooled)


@pytest.mark.parametrize("ridge", [1.0, 0.0])
def test_sums_give_the_same_update(ridge: float) -> None:
    factors = compress(keys(), residuals())
    expected = solve(factors, prior(), ridge).dense()
    check_close(solve([Moments.of(factors)], prior(), ridge).dense(), expected)
    form = SketchedSum(sketch_matrix(prior(), 30, 0), D_OUT, 8)
    check_close(solve(form.unpack(form.pack(factors)), prior(), ridge).dense(), expected)


def test_whitening_is_a_root_of_the_inverse() -> None:
    changed = prior().updated(keys(5, seed=40), 1.5)
    identity = torch.eye(sum(WIDTHS), dtype=torch.float64)
    check_close(changed.unwhiten(changed.whiten(identity)), torch.linalg.inv(changed.dense()))


def test_blocks_may_be_restricted_to_some_directions() -> None:
    """As in AlphaEdit: as many as each expert's own text leaves free."""
    bases = [torch.linalg.qr(random(w, w, seed=w))[0][:, :n] for w, n in ((7, 3), (5, 5), (9, 1))]
    apart = BlockPrior([Prior.within(basis, 10.0) for basis in bases])
    together = Prior.within(torch.block_diag(*bases), 10.0)
    assert (apart.size, apart.width) == (21, 9)
    factors = compress(keys(), residuals())
    check_close(solve(factors, apart).dense(), solve(factors, together).dense())


def test_a_frozen_part_stays_and_does_not_affect_the_others() -> None:
    own = list(prior().blocks)
    own[1] = BlockPrior.frozen(5)
    factors = compress(keys(), residuals())
    first, second, third = solve(factors, BlockPrior(own)).dense().split(WIDTHS, dim=1)
    assert not second.any()
    parts = factors.keys.split(WIDTHS)
    rest = Factors(torch.cat([parts[0], parts[2]]), factors.residuals)
    expected = solve(rest, BlockPrior([own[0], own[2]])).dense()
    check_close(torch.cat([first, third], dim=1), expected)
