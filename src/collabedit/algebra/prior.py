"""The prior of the least-squares problem: what the weights must keep doing."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from collabedit.algebra.statistics import Statistics
from collabedit.errors import CovarianceError

__all__ = ["BlockPrior", "Prior", "condition_number"]

logger = logging.getLogger(__name__)

#: Shares of the mean diagonal to try, in this order, to make a singular prior definite.
_SHIFTS = (1e-10, 1e-8, 1e-6, 1e-4)

#: Share of the mean diagonal below which a pivot counts as zero: half of the least shift. LAPACK
#: rejects only negative pivots, and a singular matrix leaves a last pivot that is rounding error of
#: either sign, ``d_in eps`` times the condition of the leading block. A prior with so small a pivot
#: loses more digits in every solve than the least shift costs.
_SMALLEST_PIVOT = _SHIFTS[0] / 2

#: Columns of past keys, as a share of ``d_in``, above which a new Cholesky factor (``d_in^3 / 3``)
#: costs less than carrying them through one more solve (``d_in^2 p``).
_LARGEST_PAST = 1 / 3


@dataclass(frozen=True, eq=False)
class Prior:
    """The penalty ``tr(Delta' (A0 + P P^T) Delta'^T)`` on updates ``Delta = Delta' U^T``.

    ``A0 + P P^T`` is symmetric positive definite; the Cholesky factor ``L`` of ``A0`` is computed
    once. The keys ``P`` of finished rounds (the dynamic covariance) stay a low-rank part as long as
    that takes fewer operations than a new Cholesky factor.

    An update needs only the map ``Q = (I + E E^T)^(-1/2) L^-1 U^T`` with ``E = L^-1 P``, for which
    ``Q^T Q = U (A0 + P P^T)^-1 U^T``: :meth:`whiten` and :meth:`unwhiten` multiply by ``Q`` and
    ``Q^T``.

    Attributes:
        matrix: ``A0 [q, q]``, float64.
        past: ``P [q, p]``, float64; no columns by default.
        basis: ``U [d_in, q]``, float64, with orthonormal columns: the only directions of keys that
            an update may touch. By default all of them, with ``q = d_in`` and ``U = I``.
        shift: amount by which the diagonal of a singular second moment was raised, as a share of
            its mean.
    """

    matrix: Tensor
    past: Tensor | None = None
    basis: Tensor | None = None
    shift: float = 0.0

    @classmethod
    def from_second_moment(cls, second_moment: Tensor, weight: float) -> Prior:
        """MEMIT's prior ``A0 = lambda C`` (Meng et al., 2023, eq. 15).

        A second moment of too few samples is singular. Its diagonal is then shifted, by at most
        1e-4 of its mean, to make it definite, and a warning says so.

        Args:
            second_moment: ``C [d_in, d_in]``, the uncentred mean of ``k k^T``.
            weight: ``lambda``, above zero.

        Raises:
            CovarianceError: when ``C`` is not finite, or not semi-definite within that shift.
        """
        matrix = weight * second_moment.double()
        if not torch.isfinite(matrix).all():
            raise CovarianceError("the second moment has NaN or infinite entries; collect it again")
        prior = cls((matrix + matrix.T).div_(2))
        del matrix  # as large as everything that is left
        if prior._factor() is not None:
            return prior
        for share in _SHIFTS:
            shifted = cls(prior.matrix.clone(), shift=share)
            shifted.matrix.diagonal().add_(share * prior.matrix.diagonal().mean())
            if shifted._factor() is not None:
                logger.warning(
                    "the second moment is singular (too few samples); "
                    "its diagonal was raised by %.0e of its mean",
                    share,
                )
                return shifted
        raise CovarianceError("the second moment is not positive semi-definite; collect it again")

    @classmethod
    def within(cls, basis: Tensor, weight: float) -> Prior:
        """AlphaEdit's prior: ``A0 = lambda_2 I`` on a subspace, and no update outside it.

        The update is then ``R K^T U U^T (K K^T U U^T + lambda_2 I)^-1``, with the projection
        ``U U^T`` (Fang et al., 2025), and maps every key orthogonal to ``U`` to zero.

        Args:
            basis: ``U [d_in, q]`` with orthonormal columns, such as eigenvectors of ``C``.
            weight: ``lambda_2``, above zero.
        """
        identity = torch.eye(basis.shape[1], dtype=torch.float64)
        return cls.from_factor(math.sqrt(weight) * identity, weight * identity, basis=basis)

    @classmethod
    def from_factor(
        cls,
        cholesky: Tensor,
        matrix: Tensor,
        past: Tensor | None = None,
        basis: Tensor | None = None,
        shift: float = 0.0,
    ) -> Prior:
        """The prior whose Cholesky factor is already known.

        Args:
            cholesky: ``L [q, q]``, lower triangular, with ``L L^T = A0``.
            matrix: ``A0 [q, q]``.
            past: ``P [q, p]``.
            basis: ``U [d_in, q]``.
            shift: amount by which the diagonal was raised, as a share of its mean.
        """
        prior = cls(matrix, past, basis, shift)
        prior.__dict__["cholesky"] = cholesky
        return prior

    @property
    def size(self) -> int:
        """``d_in``."""
        return len(self.matrix if self.basis is None else self.basis)

    @property
    def width(self) -> int:
        """``q``, the number of directions that may change."""
        return len(self.matrix)

    @property
    def has_dense(self) -> bool:
        """Whether ``A0`` exists as one matrix (see :class:`BlockPrior`)."""
        return True

    @cached_property
    def cholesky(self) -> Tensor:
        """``L [q, q]``, lower triangular, with ``L L^T = A0``.

        Raises:
            CovarianceError: when ``A0`` is not positive definite.
        """
        factor = self._factor()
        if factor is None:
            raise CovarianceError("the prior is not positive definite")
        return factor

    def dense(self) -> Tensor:
        """``A0 + P P^T [q, q]``, in the coordinates of the basis."""
        return self.matrix if self.past is None else self.matrix + self.past @ self.past.T

    def coordinates(self, columns: Tensor) -> Tensor:
        """``U^T X [q, n]`` of columns ``X [d_in, n]``."""
        return columns if self.basis is None else self.basis.T @ columns

    def whiten(self, columns: Tensor) -> Tensor:
        """``Q X [q, n]`` of columns ``X [d_in, n]``."""
        return self._discounted(self._solved(self.coordinates(columns)))

    def unwhiten(self, columns: Tensor) -> Tensor:
        """``Q^T Y [d_in, n]`` of columns ``Y [q, n]``."""
        return self._solved_back(self._discounted(columns))

    def updated(self, keys: Tensor | Statistics, weight: float) -> Prior:
        """The dynamic covariance: the prior plus ``beta K K^T``, for the next round.

        Args:
            keys: those of finished rounds, as a factor ``F [d_in, r]`` with ``F F^T = K K^T``, or
                statistics in either form.
            weight: ``beta``, zero or more; zero is the static covariance.
        """
        past = self._added(keys, weight)
        if past is None:
            return self
        if past.shape[1] > _LARGEST_PAST * len(self.matrix):
            return Prior(self.matrix + past @ past.T, basis=self.basis, shift=self.shift)
        return Prior.from_factor(self.cholesky, self.matrix, past, self.basis, self.shift)

    def _added(self, keys: Tensor | Statistics, weight: float) -> Tensor | None:
        """The past keys ``[q, p]`` with more appended; ``None`` if nothing is added."""
        if isinstance(keys, Statistics):
            keys = keys.key_factor()
        if weight == 0 or keys.shape[1] == 0:
            return None
        added = math.sqrt(weight) * self.coordinates(keys)
        return added if self.past is None else torch.cat([self.past, added], dim=1)

    def _solved(self, inside: Tensor) -> Tensor:
        """``L^-1 Y`` of ``Y [q, n]``."""
        solved: Tensor = torch.linalg.solve_triangular(self.cholesky, inside, upper=False)
        return solved

    def _solved_back(self, columns: Tensor) -> Tensor:
        """``U L^-T Y [d_in, n]`` of ``Y [q, n]``."""
        inside: Tensor = torch.linalg.solve_triangular(self.cholesky.T, columns, upper=True)
        return inside if self.basis is None else self.basis @ inside

    def _discounted(self, columns: Tensor) -> Tensor:
        """``(I + E E^T)^(-1/2) Y``: takes the past keys' share out of ``Y [q, n]``."""
        if self.past is None:
            return columns
        whitened, core = self._past_root
        return columns - whitened @ (core @ (whitened.T @ columns))

    @cached_property
    def _past_root(self) -> tuple[Tensor, Tensor]:
        """``E [q, p]`` and ``X [p, p]`` with ``(I + E E^T)^(-1/2) = I - E X E^T``.

        With the eigenvalues ``s`` of ``E^T E``, those of ``X`` are ``(1 - (1 + s)^(-1/2)) / s``,
        here in a form that never divides by a small number.
        """
        assert self.past is not None
        whitened = self._solved(self.past)
        values, vectors = torch.linalg.eigh(whitened.T @ whitened)
        root = (1 + values.clamp(min=0)).sqrt()
        return whitened, (vectors / (root * (1 + root))) @ vectors.T

    def _factor(self) -> Tensor | None:
        if "cholesky" in self.__dict__:
            return self.cholesky
        factor, info = torch.linalg.cholesky_ex(self.matrix)
        if info.item() != 0 or not _is_definite(factor, self.matrix):
            return None
        self.__dict__["cholesky"] = factor
        known: Tensor = factor
        return known


class BlockPrior(Prior):
    """A prior with a separate block for each part of a key, such as each expert's.

    With the blocks ``A_e`` and the parts ``F_e`` of the keys, the update's part is
    ``Delta_e = G (e I + sum_e F_e^T A_e^-1 F_e)^-1 F_e^T A_e^-1``: the effects of the parts of a
    key add up, and each costs what its own block says. No ``d_in x d_in`` matrix is formed. Past
    keys couple the parts, and stay a low-rank part however many there are.

    Args:
        blocks: the priors of the parts, without past keys.
        past: ``P [q, p]``, float64, in the coordinates of the blocks; no columns by default.
    """

    def __init__(self, blocks: Sequence[Prior], past: Tensor | None = None) -> None:
        object.__setattr__(self, "blocks", tuple(blocks))
        object.__setattr__(self, "past", past)

    blocks: tuple[Prior, ...]

    @classmethod
    def frozen(cls, size: int) -> Prior:
        """The block of a part ``[size]`` that no update may touch."""
        return Prior.within(torch.zeros(size, 0, dtype=torch.float64), 1.0)

    @property
    def size(self) -> int:
        """``d_in``."""
        return sum(block.size for block in self.blocks)

    @property
    def width(self) -> int:
        """``q``, the number of directions that may change."""
        return sum(block.width for block in self.blocks)

    @property
    def has_dense(self) -> bool:
        """Never: there are only the blocks."""
        return False

    def dense(self) -> Tensor:
        """``A0 + P P^T [q, q]``, needed only for checks."""
        matrix: Tensor = torch.block_diag(*(block.dense() for block in self.blocks))
        return matrix if self.past is None else matrix + self.past @ self.past.T

    def coordinates(self, columns: Tensor) -> Tensor:
        """``U^T X [q, n]`` of columns ``X [d_in, n]``."""
        parts = columns.split([block.size for block in self.blocks])
        return torch.cat([b.coordinates(x) for b, x in zip(self.blocks, parts, strict=True)])

    def updated(self, keys: Tensor | Statistics, weight: float) -> BlockPrior:
        """See :meth:`Prior.updated`."""
        added = self._added(keys, weight)
        return self if added is None else BlockPrior(self.blocks, added)

    def _solved(self, inside: Tensor) -> Tensor:
        parts = inside.split([block.width for block in self.blocks])
        return torch.cat([b._solved(y) for b, y in zip(self.blocks, parts, strict=True)])

    def _solved_back(self, columns: Tensor) -> Tensor:
        parts = columns.split([block.width for block in self.blocks])
        return torch.cat([b._solved_back(y) for b, y in zip(self.blocks, parts, strict=True)])


def _is_definite(factor: Tensor, matrix: Tensor) -> bool:
    """Whether no pivot of a Cholesky factor counts as zero."""
    least = _SMALLEST_PIVOT * matrix.diagonal().mean()
    return bool(factor.diagonal().square().min() > least)


def condition_number(matrix: Tensor) -> float:
    """Estimate of the ratio of the extreme eigenvalues, infinite if ``matrix`` is singular.

    Power iteration from both ends: a lower bound, close if the extremes are well separated.

    Args:
        matrix: ``[n, n]``, symmetric, float64.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() != 0:
        return math.inf
    generator = torch.Generator().manual_seed(0)
    high = torch.randn(len(matrix), 1, dtype=matrix.dtype, generator=generator)
    low = high.clone()
    for _ in range(50):
        high = matrix @ (high / high.norm())
        low = torch.cholesky_solve(low / low.norm(), factor)
    return float(high.norm() * low.norm())
