"""The closed-form update, from either form of the statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from collabedit.algebra.prior import Prior
from collabedit.algebra.statistics import Factors, Moments
from collabedit.algebra.updates import LowRankUpdate

__all__ = ["prefers_factors", "solve"]


def solve(statistics: Factors | Moments, prior: Prior) -> LowRankUpdate:
    """``Delta = R K^T (A0 + P P^T + K K^T)^-1`` (MEMIT, eq. 14; CollabEdit, eq. 6).

    From factors, with ``L L^T = A0``, ``Q = [F, P]`` and ``H = L^-1 Q`` (Woodbury's identity)::

        B = G        A = [I, 0] (I + H^T H)^-1 H^T L^-1        Delta = B A

    which costs ``d_in^2 r`` and never forms a ``d_in x d_in`` matrix per party. Factors whose rank
    comes near ``d_in`` are cheaper to sum first; that form is then chosen here.

    Args:
        statistics: of the pooled edits; stack the factors, or add the moments, of all parties.
        prior: ``A0`` and the past keys ``P``, which count like edits without a residual.
    """
    if isinstance(statistics, Factors):
        d_out, d_in = statistics.residuals.shape[0], statistics.keys.shape[0]
        past = 0 if prior.past is None else prior.past.shape[1]
        if prefers_factors(statistics.rank + past, d_in, d_out):
            return _solve_factors(statistics, prior)
        statistics = Moments.of(statistics)
    return _solve_moments(statistics, prior)


def prefers_factors(rank: int, d_in: int, d_out: int) -> bool:
    """Whether the factored form takes fewer multiplications than the summed one.

    The Cholesky factor of the prior counts as given, since it outlives the round.

    Args:
        rank: columns of the factors and of the past keys together.
        d_in: width of a key.
        d_out: width of a residual.
    """
    factored = 2 * d_in**2 * rank + d_in * rank**2 + rank**3 / 3
    summed = d_in**2 * rank + d_out * d_in * rank + d_in**3 / 3 + 2 * d_out * d_in**2
    return factored <= summed


def _solve_factors(factors: Factors, prior: Prior) -> LowRankUpdate:
    triangle, rank = prior.cholesky, factors.rank
    columns = factors.keys if prior.past is None else torch.cat([factors.keys, prior.past], dim=1)
    whitened = torch.linalg.solve_triangular(triangle, columns, upper=False)
    system = whitened.T @ whitened
    system.diagonal().add_(1.0)
    chosen = torch.eye(len(system), rank, dtype=system.dtype)
    mixed = whitened @ _solve_definite(system, chosen)
    right = torch.linalg.solve_triangular(triangle.T, mixed, upper=True).T
    return LowRankUpdate(factors.residuals, right.contiguous())


def _solve_moments(moments: Moments, prior: Prior) -> LowRankUpdate:
    delta = _solve_definite(prior.dense() + moments.key_moment, moments.cross_moment.T).T
    return LowRankUpdate.from_dense(delta.contiguous())


def _solve_definite(system: Tensor, right_side: Tensor) -> Tensor:
    return torch.cholesky_solve(right_side, torch.linalg.cholesky(system))
