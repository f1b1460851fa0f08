"""Statistics of edits for one weight, in the two forms that determine the update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Factors", "Moments", "Statistics", "compress"]

#: Singular values below this share of the largest are rounding noise of float64 arithmetic.
RANK_TOLERANCE = 1e-12


class Statistics(ABC):
    """What an update needs to know about edits, in one of two forms that add up over parties."""

    @property
    @abstractmethod
    def d_in(self) -> int:
        """Width of a key."""

    @property
    @abstractmethod
    def d_out(self) -> int:
        """Width of a residual."""

    @property
    @abstractmethod
    def residual_norm(self) -> float | None:
        """``|R|`` (Frobenius); ``None`` if only sums are known, which do not determine it."""

    @abstractmethod
    def key_factor(self) -> Tensor:
        """``F [d_in, r]`` with ``F F^T = K K^T``, float64."""

    @abstractmethod
    def to_moments(self) -> Moments:
        """The summed form."""

    @staticmethod
    def pool(parts: Sequence[Statistics]) -> Statistics:
        """The statistics of the pooled edits: factors side by side, or else the sum of moments."""
        factors = [part for part in parts if isinstance(part, Factors)]
        if len(factors) == len(parts):
            return Factors.stack(factors)
        first, *others = (part.to_moments() for part in parts)
        return sum(others, first)


@dataclass(frozen=True)
class Factors(Statistics):
    """The factored form: ``F F^T = K K^T`` and ``G F^T = R K^T``.

    Attributes:
        keys: ``F [d_in, r]``, float64.
        residuals: ``G [d_out, r]``, float64.
    """

    keys: Tensor
    residuals: Tensor

    @property
    def rank(self) -> int:
        """``r``, the number of columns."""
        return self.keys.shape[1]

    @property
    def d_in(self) -> int:
        """Width of a key."""
        return self.keys.shape[0]

    @property
    def d_out(self) -> int:
        """Width of a residual."""
        return self.residuals.shape[0]

    @property
    def residual_norm(self) -> float:
        """``|G|``, which is ``|R|`` for keys of full rank, else that of its part in their span."""
        return float(self.residuals.norm())

    def key_factor(self) -> Tensor:
        """``F`` itself."""
        return self.keys

    def to_moments(self) -> Moments:
        """``F F^T`` and ``G F^T``."""
        return Moments.of(self)

    @classmethod
    def stack(cls, parts: Sequence[Factors]) -> Factors:
        """The factors of the pooled edits of several parties, side by side."""
        return cls(
            torch.cat([part.keys for part in parts], dim=1),
            torch.cat([part.residuals for part in parts], dim=1),
        )


@dataclass(frozen=True)
class Moments(Statistics):
    """The summed form, which secure aggregation can add without seeing a party's share.

    Attributes:
        key_moment: ``M = K K^T [d_in, d_in]``, float64.
        cross_moment: ``N = R K^T [d_out, d_in]``, float64.
    """

    key_moment: Tensor
    cross_moment: Tensor

    @classmethod
    def of(cls, factors: Factors) -> Moments:
        """The moments that the factors represent."""
        return cls(factors.keys @ factors.keys.T, factors.residuals @ factors.keys.T)

    @property
    def d_in(self) -> int:
        """Width of a key."""
        return self.cross_moment.shape[1]

    @property
    def d_out(self) -> int:
        """Width of a residual."""
        return self.cross_moment.shape[0]

    @property
    def residual_norm(self) -> None:
        """Unknown: sums of ``R K^T`` do not determine ``|R|``."""
        return None

    def key_factor(self) -> Tensor:
        """``V S^(1/2)`` of the eigenvalues above the rounding error of ``M``, ``d_in eps |M|``."""
        values, vectors = torch.linalg.eigh(self.key_moment)
        noise = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
        kept = values > noise
        factor: Tensor = vectors[:, kept] * values[kept].sqrt()
        return factor

    def to_moments(self) -> Moments:
        """These moments."""
        return self

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.key_moment + other.key_moment, self.cross_moment + other.cross_moment)


def compress(keys: Tensor, residuals: Tensor, tolerance: float = RANK_TOLERANCE) -> Factors:
    """Factors of a party's edits, which hold their statistics but not the single edits.

    With the thin SVD ``K = U S V^T``: ``F = K V = U S`` and ``G = R V``. ``V`` stays here.
    Directions with singular values below ``tolerance`` times the largest, which duplicate keys
    leave behind, are dropped from both factors: ``R K^T`` has no component in them.

    Args:
        keys: ``K [d_in, n]``.
        residuals: ``R [d_out, n]``.
        tolerance: relative to the largest singular value.

    Returns:
        Float64 factors of rank at most ``min(n, d_in)``, strongest direction first.
    """
    keys, residuals = keys.double(), residuals.double()
    _, triangle = torch.linalg.qr(keys, mode="r")
    _, singular, right = torch.linalg.svd(triangle, full_matrices=False)
    kept = singular > tolerance * singular.max() if len(singular) else singular > 0
    mixing = right[kept].T
    return Factors(keys @ mixing, residuals @ mixing)
