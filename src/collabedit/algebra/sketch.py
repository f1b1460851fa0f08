"""Statistics as vectors that can be summed, for secure aggregation.

``M = sum_j K_j K_j^T`` and ``N = sum_j R_j K_j^T`` determine the update of all parties' edits. They
have two forms as plain vectors, which are summed over the parties. Both are exact:

- dense: the upper triangle of ``M``, and ``N``: ``d_in (d_in + 1) / 2 + d_in d_out`` numbers;
- sketched: ``Y = M S`` and ``Z = N S`` for a public ``S [d_in, m]``: ``(d_in + d_out) m`` numbers.
  With ``S^T Y = V diag(s) V^T``, the factors ``F = Y V s^(-1/2)`` and ``G = Z V s^(-1/2)`` satisfy
  ``F F^T = M`` and ``G F^T = N`` as long as ``rank M <= m``: the Nyström approximation is exact on
  its range (Gittens and Mahoney, 2016, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from collabedit.algebra.prior import Prior
from collabedit.algebra.statistics import Factors, Moments, Statistics
from collabedit.errors import RoundError

__all__ = [
    "OVERSAMPLING",
    "DenseSum",
    "SketchedSum",
    "SumForm",
    "cheaper_dense",
    "sketch_matrix",
]

#: Columns of a sketch beyond the most edits that a round takes. With that many edits or fewer, this
#: many eigenvalues of ``S^T M S`` vanish; if they don't, there are more edits than agreed.
OVERSAMPLING = 20

#: Eigenvalues of ``S^T M S`` below this share of the largest are rounding noise. Float64 noise is
#: near ``m eps``, 1e-13 for hundreds of edits.
_NOISE = 1e-13

#: Rows of ``M`` that the dense form computes together.
_ROWS = 256


class SumForm(Protocol):
    """How a party's statistics of one weight become a vector, and a sum becomes statistics."""

    @property
    def length(self) -> int:
        """Length of the vector."""

    def pack(self, factors: Factors) -> Tensor:
        """A party's part of the sum, ``[length]``, float64."""

    def unpack(self, total: Tensor) -> Statistics:
        """The statistics of the pooled edits, from the sum of the parties' vectors."""


@dataclass(frozen=True)
class DenseSum:
    """The upper triangle of ``M``, row by row, then ``N``.

    Attributes:
        d_in: width of a key.
        d_out: width of a residual.
    """

    d_in: int
    d_out: int

    @property
    def length(self) -> int:
        """``d_in (d_in + 1) / 2 + d_in d_out``."""
        return self._triangle + self.d_in * self.d_out

    @property
    def _triangle(self) -> int:
        return self.d_in * (self.d_in + 1) // 2

    def pack(self, factors: Factors) -> Tensor:
        """``triu(F F^T)`` and ``G F^T`` as one vector, ``[length]``."""
        vector = factors.keys.new_empty(self.length)
        start = 0
        for first in range(0, self.d_in, _ROWS):  # the whole matrix would be twice the vector
            block = factors.keys[first : first + _ROWS] @ factors.keys[first:].T
            for offset, row in enumerate(block):
                end = start + self.d_in - first - offset
                vector[start:end] = row[offset:]
                start = end
        cross = vector[self._triangle :].view(self.d_out, self.d_in)
        torch.matmul(factors.residuals, factors.keys.T, out=cross)
        return vector

    def unpack(self, total: Tensor) -> Moments:
        """``M`` and ``N`` from their sum ``[length]``."""
        moment = total.new_zeros(self.d_in, self.d_in)
        start = 0
        for row in range(self.d_in):
            end = start + self.d_in - row
            moment[row, row:] = moment[row:, row] = total[start:end]
            start = end
        return Moments(moment, total[self._triangle :].view(self.d_out, self.d_in))


@dataclass(frozen=True, eq=False)
class SketchedSum:
    """``Y = M S`` and ``Z = N S``.

    Attributes:
        sketch: ``S [d_in, m]``; all parties must use the same.
        d_out: width of a residual.
        max_rank: the most directions that all parties may have together.
    """

    sketch: Tensor
    d_out: int
    max_rank: int

    @property
    def length(self) -> int:
        """``(d_in + d_out) m``."""
        d_in, width = self.sketch.shape
        return (d_in + self.d_out) * width

    def pack(self, factors: Factors) -> Tensor:
        """``F (F^T S)`` and ``G (F^T S)`` as one vector, ``[length]``."""
        mixed = factors.keys.T @ self.sketch.double()
        return torch.cat([(factors.keys @ mixed).flatten(), (factors.residuals @ mixed).flatten()])

    def unpack(self, total: Tensor) -> Factors:
        """``F`` and ``G`` with ``F F^T = M`` and ``G F^T = N``, from the sum ``[length]``.

        Raises:
            RoundError: when the pooled keys have a higher rank than the sketch was made for, so
                that its factors would leave edits out.
        """
        sketch = self.sketch.double()
        d_in, width = sketch.shape
        keys, residuals = total.view(-1, width).split([d_in, self.d_out])
        core = sketch.T @ keys
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        kept = values > _NOISE * values[-1]
        rank = int(kept.sum())
        if rank > min(self.max_rank, d_in):
            raise RoundError(
                f"the sum has {rank} independent keys and the round allows {self.max_rank} "
                "of all parties together; nothing was merged. Begin a round with a higher "
                "--max-edits"
            )
        mixing = vectors[:, kept] / values[kept].sqrt()
        return Factors(keys @ mixing, residuals @ mixing)


def sketch_matrix(prior: Prior, width: int, seed: int) -> Tensor:
    """``S [d_in, m]``: Gaussian columns whitened by the prior, ``S = Q^T Omega``, float32.

    Whitening makes ``S^T M S`` the sketch of the whitened keys ``H = Q F``, which are conditioned
    like the update and not like the keys. Any ``S`` of full rank is exact up to rounding; the
    parties only have to use the same one, so it is rounded to float32 and sent.

    Args:
        prior: of the weight.
        width: ``m``.
        seed: of the Gaussian.
    """
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(prior.width, width, generator=generator, dtype=torch.float64)
    columns = prior.unwhiten(gaussian)
    return (columns / columns.square().mean().sqrt()).float()


def cheaper_dense(d_in: int, d_out: int, directions: int) -> bool:
    """Whether the dense form takes no more numbers than the sketched one.

    Args:
        d_in: width of a key.
        d_out: width of a residual.
        directions: the maximum rank of the sum of all parties' statistics.
    """
    return DenseSum(d_in, d_out).length <= (d_in + d_out) * (directions + OVERSAMPLING)
