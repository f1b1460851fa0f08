"""Running sums of ``k k^T`` over blocks of tokens, and the error of their mean.

The sums of ``k k^T`` run over all real tokens. Products are formed in float32 (float64 for a
float64 model) within a block of tokens, and blocks are added up in float64. A product ``X^T X`` is
symmetric, so only its upper triangle of column panels is computed.

**Sampling error.** Let block ``b`` have ``n_b`` of the ``N`` tokens, the sum ``S_b`` and the mean
``C_b = S_b / n_b``, so that ``C = sum_b n_b C_b / N``. If blocks are independent and the mean of
``n`` tokens has the squared error ``s^2 / n`` in the Frobenius norm, then

    E sum_b n_b |C_b - C|^2 = (m - 1) s^2        and        E |C - E C|^2 = s^2 / N

over ``m`` blocks, whatever their sizes. Hence the estimate

    SE^2 = (sum_b |S_b|^2 / n_b - N |C|^2) / ((m - 1) N)

which for equal blocks is the variance of the block means over ``m``. Tokens within a block may
depend on each other arbitrarily; a text that spans two blocks makes the estimate a little low.
Relative to ``|C|``, ``N`` independent tokens give about ``tr(C) / (|C| sqrt(N))``, which is
``sqrt(d_in / N)`` if no direction stands out: 14 % for 1,536 inputs and 80,000 tokens.

**Experts.** The keys of a mixture's experts are averaged over all tokens too, with zeros for tokens
that an expert does not see, and only the blocks ``[d_e, d_e]`` of single experts are kept: ``S_b``
is block-diagonal, and all of the above holds unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from collabedit.models.experts import Inputs, Routed

__all__ = ["PANELS", "BlockProduct", "InputProduct", "Sums"]

#: Column panels of a product: more would save little and make narrow, slow matrices.
PANELS = 4
#: Rows of a matrix that are mirrored at a time.
_MIRROR_ROWS = 1024


@dataclass
class Sums:
    """Everything that a collection has gathered so far.

    Attributes:
        totals: sum of ``k k^T`` by weight name; float64, only its upper triangle counts. For
            experts ``[n, d_e, d_e]``, one matrix each.
        squares: ``sum_b |S_b|^2 / n_b`` by weight name.
        samples: number of tokens.
        blocks: number of blocks, ``m``.
        chunks: number of finished chunks of the corpus.
    """

    totals: dict[str, Tensor]
    squares: dict[str, float]
    samples: int = 0
    blocks: int = 0
    chunks: int = 0

    @classmethod
    def zeros(cls, names: Sequence[str], size: int, experts: int | None = None) -> Sums:
        """Empty sums for inputs of this size, or for experts that share it."""
        shape = (size, size) if experts is None else (experts, size // experts, size // experts)
        totals = {name: torch.zeros(shape, dtype=torch.float64) for name in names}
        return cls(totals, dict.fromkeys(names, 0.0))

    def take_mean(self, name: str) -> Tensor:
        """``C``, exactly symmetric; it takes over the memory of the sum, which is removed."""
        mean = self.totals.pop(name).div_(self.samples)
        for matrix in mean if mean.ndim == 3 else [mean]:
            _mirror_(matrix)
        return mean

    def relative_error(self, mean: Tensor, name: str) -> float:
        """The standard error of ``C`` over its norm; see the module's docstring."""
        norm = float(mean.norm())
        spread = self.squares[name] - self.samples * norm**2
        variance = max(spread, 0.0) / ((self.blocks - 1) * self.samples)
        return math.sqrt(variance) / norm


def _mirror_(matrix: Tensor) -> None:
    """Write the upper triangle into the lower one."""
    for start in range(0, len(matrix), _MIRROR_ROWS):
        end = start + _MIRROR_ROWS
        inside = matrix[start:end, start:end].triu()
        matrix[start:end, start:end] = inside + inside.triu(1).T
        matrix[end:, start:end] = matrix[start:end, end:].T


class BlockProduct:
    """``S_b = X^T X`` for the rows of one block, in column panels of its upper triangle."""

    def __init__(self, like: Tensor) -> None:
        size = like.shape[1]
        edges = [size * number // PANELS for number in range(PANELS + 1)]
        self._spans = list(pairwise(edges))
        self._dtype = torch.promote_types(like.dtype, torch.float32)
        self._panels = [
            torch.zeros(end - start, size - start, dtype=self._dtype, device=like.device)
            for start, end in self._spans
        ]

    def add(self, rows: Tensor) -> None:
        """Add ``X^T X`` of ``rows [n, d_in]``."""
        rows = rows.to(self._dtype)
        for (start, end), panel in zip(self._spans, self._panels, strict=True):
            panel.addmm_(rows[:, start:end].T, rows[:, start:])

    def move_to(self, total: Tensor) -> float:
        """Add the block to ``total``, begin a new one, and return ``|S_b|^2``."""
        squared = 0.0
        for (start, end), panel in zip(self._spans, self._panels, strict=True):
            inside = torch.linalg.vector_norm(panel[:, : end - start], dtype=torch.float64)
            right = torch.linalg.vector_norm(panel[:, end - start :], dtype=torch.float64)
            squared += float(inside) ** 2 + 2 * float(right) ** 2
            total[start:end, start:] += panel.to(total.device)
            panel.zero_()
        return squared


class InputProduct:
    """The :class:`BlockProduct` of a weight's inputs, or one for each expert with tokens."""

    def __init__(self) -> None:
        self._products: dict[int, BlockProduct] = {}

    def add(self, inputs: Inputs) -> None:
        """Add the keys ``[n, d_in]`` of some tokens, or each expert's own ``[n, d_e]``."""
        for index, rows in _parts(inputs):
            if index not in self._products:
                self._products[index] = BlockProduct(rows)
            self._products[index].add(rows)

    def move_to(self, total: Tensor) -> float:
        """Add the block to ``total``, begin a new one, and return ``|S_b|^2``."""
        blocks = total if total.ndim == 3 else total[None]
        return sum(product.move_to(blocks[index]) for index, product in self._products.items())


def _parts(inputs: Inputs) -> Iterator[tuple[int, Tensor]]:
    if isinstance(inputs, Routed):
        yield from ((expert, keys) for expert, _, keys in inputs.by_expert())
    else:
        yield 0, inputs
