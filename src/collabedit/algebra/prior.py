"""The prior of the least-squares problem: what the weights must keep doing."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from collabedit.errors import CovarianceError

__all__ = ["Prior"]

logger = logging.getLogger(__name__)

#: Shares of the mean diagonal tried, in this order, to make a singular prior definite.
_SHIFTS = (1e-10, 1e-8, 1e-6)

#: Columns of past keys, as a share of ``d_in``, above which a new Cholesky factor (``d_in^3 / 3``)
#: costs less than carrying them through one more solve (``d_in^2 p``).
_LARGEST_PAST = 1 / 3


@dataclass(frozen=True, eq=False)
class Prior:
    """``A0 + P P^T``, symmetric positive definite; the Cholesky factor of ``A0`` is made once.

    The keys ``P`` of finished rounds (the dynamic covariance) stay a low-rank part for as long as
    that takes fewer operations than a new Cholesky factor.

    Attributes:
        matrix: ``A0 [d_in, d_in]``, float64.
        past: ``P [d_in, p]``, float64; no columns by default.
    """

    matrix: Tensor
    past: Tensor | None = None

    @classmethod
    def from_second_moment(cls, second_moment: Tensor, weight: float) -> Prior:
        """MEMIT's prior ``A0 = lambda C`` (Meng et al., 2023, eq. 15).

        A second moment of too few samples is singular. A shift of the diagonal, 1e-6 of its mean
        at most, then makes it definite, and a warning says so.

        Args:
            second_moment: ``C [d_in, d_in]``, the uncentred mean of ``k k^T``.
            weight: ``lambda``, above zero.

        Raises:
            CovarianceError: when ``C`` is not finite, or not semi-definite within that shift.
        """
        matrix = weight * second_moment.double()
        if not torch.isfinite(matrix).all():
            raise CovarianceError("the second moment has NaN or infinite entries; collect it again")
        prior = cls((matrix + matrix.T) / 2)
        if prior._factor() is not None:
            return prior
        for share in _SHIFTS:
            shift = share * prior.matrix.diagonal().mean()
            shifted = cls(prior.matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype))
            if shifted._factor() is not None:
                logger.warning(
                    "the second moment is singular (too few samples); "
                    "its diagonal was raised by %.0e of its mean",
                    share,
                )
                return shifted
        raise CovarianceError("the second moment is not positive semi-definite; collect it again")

    @classmethod
    def from_factor(cls, cholesky: Tensor, matrix: Tensor, past: Tensor | None = None) -> Prior:
        """The prior whose Cholesky factor is known already.

        Args:
            cholesky: ``L [d_in, d_in]``, lower triangular, with ``L L^T = A0``.
            matrix: ``A0 [d_in, d_in]``.
            past: ``P [d_in, p]``.
        """
        prior = cls(matrix, past)
        prior.__dict__["cholesky"] = cholesky
        return prior

    @property
    def size(self) -> int:
        """``d_in``."""
        return len(self.matrix)

    @cached_property
    def cholesky(self) -> Tensor:
        """``L [d_in, d_in]``, lower triangular, with ``L L^T = A0``.

        Raises:
            CovarianceError: when ``A0`` is not positive definite.
        """
        factor = self._factor()
        if factor is None:
            raise CovarianceError("the prior is not positive definite")
        return factor

    def dense(self) -> Tensor:
        """``A0 + P P^T [d_in, d_in]``."""
        return self.matrix if self.past is None else self.matrix + self.past @ self.past.T

    def updated(self, keys: Tensor, weight: float) -> Prior:
        """The dynamic covariance: the prior plus ``beta F F^T``, for the next round.

        Args:
            keys: ``F [d_in, r]``, the pooled key factors of finished rounds.
            weight: ``beta``, zero or more; zero is the static covariance.
        """
        if weight == 0 or keys.shape[1] == 0:
            return self
        added = math.sqrt(weight) * keys
        past = added if self.past is None else torch.cat([self.past, added], dim=1)
        if past.shape[1] > _LARGEST_PAST * self.size:
            return Prior(self.matrix + past @ past.T)
        return Prior.from_factor(self.cholesky, self.matrix, past)

    def _factor(self) -> Tensor | None:
        if "cholesky" in self.__dict__:
            return self.cholesky
        factor, info = torch.linalg.cholesky_ex(self.matrix)
        if info.item() != 0:
            return None
        self.__dict__["cholesky"] = factor
        known: Tensor = factor
        return known
