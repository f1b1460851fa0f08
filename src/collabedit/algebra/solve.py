"""The closed-form update, from either form of the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collabedit.algebra.prior import Prior
from collabedit.algebra.statistics import Factors, Moments, Statistics, compress
from collabedit.algebra.updates import LowRankUpdate

__all__ = ["SMALLEST_SINGULAR_VALUE", "Missed", "missed", "prefers_factors", "solve"]

#: Under equality constraints, directions in which the whitened keys have a singular value below
#: this share of the largest count as repeated keys, so that keys that nearly agree while their
#: targets differ can't blow up the update: they are amplified by at most ``1 / share``. The values
#: of 300 CounterFact edits of SmolLM2 are above 0.038 or, where two edits have the same key, below
#: 1e-15. The price: when there are nearly as many keys as inputs, some directions fall below it
#: although all targets could be met; :func:`missed` says what that costs.
SMALLEST_SINGULAR_VALUE = 0.01

#: How far a direction must miss, relative to the residuals, to be counted.
_MISSED = 0.01

#: Share of the largest singular value below which keys differ by rounding alone: a float32 pass
#: computes a key to about 1e-6, and each party measures its keys in different batches.
_REPEATED = 1e-5

#: Columns of a symmetric product that are formed together.
_PANEL = 1024


def solve(
    statistics: Statistics | Sequence[Statistics], prior: Prior, ridge: float = 1.0
) -> LowRankUpdate:
    """``Delta = G (e I + H^T H)^+ H^T Q`` with the prior's whitening ``Q`` and ``H = Q F``.

    One formula for all closed-form editors. With ``e = 1`` it is the least-squares update ``R K^T
    (A0 + P P^T + K K^T)^-1`` (MEMIT, eq. 14; CollabEdit, eq. 6). With ``e = 0`` it is the smallest
    change, in the norm of the prior, under which the keys give their targets exactly (EMMET; ROME
    for a single edit, eq. 2). Past keys are penalties in both.

    Equality cannot hold where the same key has different residuals. There the pseudo-inverse gives
    the least-squares answer, the mean of what the repeated keys ask for. Keys that are equal up to
    rounding, or nearly so, count as repeated (:data:`SMALLEST_SINGULAR_VALUE`), so the update stays
    bounded.

    Only ``F F^T`` and ``G F^T`` matter, so everything merges exactly. From factors it costs
    ``d_in^2 r`` and never forms a ``d_in x d_in`` matrix per party. When the rank comes near
    ``d_in`` it is cheaper to sum the factors first, which is then done here unless the prior has
    blocks.

    Args:
        statistics: those of one party, or of several, whose edits are pooled.
        prior: ``A0``, the past keys, and the directions that may change.
        ridge: ``e``, the weight of the prior against the edits; zero for equality.
    """
    parts = [statistics] if isinstance(statistics, Statistics) else statistics
    factors = [part for part in parts if isinstance(part, Factors)]
    if len(factors) < len(parts):
        return _solve_moments(Statistics.pool(parts).to_moments(), prior, ridge)
    rank = sum(part.rank for part in factors)
    apart = ridge == 0 or not prior.has_dense
    if apart or prefers_factors(rank, parts[0].d_in, parts[0].d_out):
        return _solve_factors(Factors.stack(factors), prior, ridge)
    return _solve_many(factors, prior, ridge)


@dataclass(frozen=True)
class Missed:
    """How far an update is from giving the keys their targets.

    Factors mix the edits, so this counts independent combinations of edits, not single edits: one
    missed combination contributes to the error of many edits. With 197 random keys of width 200,
    one is missed and 176 edits are off by more than 1 %. Repeated keys count as one key whose
    target is the mean of those asked for, so this does not show whether two edits contradict each
    other.

    Attributes:
        count: number of combinations (singular vectors of the error) in which the error exceeds 1 %
            of the root mean square of the residuals.
        worst: the largest error of a combination, relative to that root mean square.
    """

    count: int
    worst: float


def missed(update: LowRankUpdate, statistics: Sequence[Factors]) -> Missed:
    """In how many combinations of edits an update under equality misses, and by how much.

    With repeated keys folded into one, ``Delta F - G`` has the same singular values however the
    edits are mixed or split over parties.

    Args:
        update: the update of one weight.
        statistics: those of all parties.
    """
    stacked = Factors.stack(statistics)
    pooled = compress(stacked.keys, stacked.residuals, _REPEATED)
    size = float(pooled.residuals.norm())
    if size == 0:
        return Missed(0, 0.0)
    missing = update.left @ (update.right @ pooled.keys) - pooled.residuals
    sizes = torch.linalg.svdvals(missing) * pooled.rank**0.5 / size
    return Missed(int((sizes > _MISSED).sum()), float(sizes.max()))


def prefers_factors(rank: int, d_in: int, d_out: int) -> bool:
    """Whether the factored form takes fewer multiplications than the summed one.

    The Cholesky factor of the prior counts as given, since it outlives the round.

    Args:
        rank: columns of the factors.
        d_in: width of a key.
        d_out: width of a residual.
    """
    factored = 2 * d_in**2 * rank + 2 * d_in * rank**2 + rank**3 / 3
    summed = (d_in / 2 + d_out) * d_in * rank + d_in**3 / 3 + 2 * d_out * d_in**2
    return factored <= summed


def _solve_factors(factors: Factors, prior: Prior, ridge: float) -> LowRankUpdate:
    whitened = prior.whiten(factors.keys)
    mixed = _divided(whitened.T, whitened.T @ whitened, ridge).T
    return LowRankUpdate(factors.residuals, prior.unwhiten(mixed).T.contiguous())


def _solve_many(parts: Sequence[Factors], prior: Prior, ridge: float) -> LowRankUpdate:
    """``Delta = G F^T (e A + F F^T)^-1``, the same update, for too many factors to keep apart."""
    system = ridge * prior.dense()
    cross = system.new_zeros(parts[0].residuals.shape[0], len(system))
    for part in parts:
        keys = prior.coordinates(part.keys)
        cross.addmm_(part.residuals, keys.T)
        for start in range(0, len(system), _PANEL):  # only the lower half is read
            panel = keys[start : start + _PANEL]
            system[start:, start : start + _PANEL].addmm_(keys[start:], panel.T)
    return _from_system(cross, system, prior)


def _solve_moments(moments: Moments, prior: Prior, ridge: float) -> LowRankUpdate:
    """``Delta = N (e A + M)^-1``; or ``N Q^T (e I + Q M Q^T)^+ Q``, for equality and for blocks."""
    if ridge == 0 or not prior.has_dense:
        gram = prior.whiten(prior.whiten(moments.key_moment).T)
        mixed = _divided(prior.whiten(moments.cross_moment.T), gram, ridge)
        return LowRankUpdate.from_dense(prior.unwhiten(mixed).T.contiguous())
    inside = prior.coordinates(prior.coordinates(moments.key_moment).T)
    cross = prior.coordinates(moments.cross_moment.T).T
    return _from_system(cross, inside + ridge * prior.dense(), prior)


def _from_system(cross: Tensor, system: Tensor, prior: Prior) -> LowRankUpdate:
    """``N S^-1``, overwriting the system ``S``, of which only the lower half is read.

    Memory is tight here. LAPACK is column-major, so what it calls the upper half is our lower one,
    and it factorises in place; both solves use the factor without copying it.
    """
    torch.linalg.cholesky(system.mT, upper=True, out=system.mT)
    solved = torch.linalg.solve_triangular(system, cross.T, upper=False)
    delta = torch.linalg.solve_triangular(system.mT, solved, upper=True).T
    if prior.basis is not None:
        delta = delta @ prior.basis.T
    return LowRankUpdate.from_dense(delta.contiguous())


def _divided(columns: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """``(e I + gram)^+ columns``, cut off where keys count as repeated.

    ``H^T H`` and ``H H^T`` have the same non-zero eigenvalues, and no split of the edits over
    parties or mixing of their columns changes them, so the cut-off is the same for all.
    """
    if ridge > 0:
        system = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
        return torch.cholesky_solve(columns, torch.linalg.cholesky(system))
    values, vectors = torch.linalg.eigh(gram)
    kept = values > SMALLEST_SINGULAR_VALUE**2 * values[-1]
    chosen = vectors[:, kept]
    divided: Tensor = chosen @ ((chosen.T @ columns) / values[kept, None])
    return divided
