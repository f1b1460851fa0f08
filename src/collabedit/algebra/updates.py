"""Changes of one weight."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["LowRankUpdate", "relative_distance"]


@dataclass(frozen=True)
class LowRankUpdate:
    """``Delta = B A``, to be added to a weight ``[d_out, d_in]``.

    Attributes:
        left: ``B [d_out, r]``, float64.
        right: ``A [r, d_in]``, float64.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def from_dense(cls, delta: Tensor) -> LowRankUpdate:
        """An update of full rank: ``Delta`` beside the identity on its shorter side."""
        d_out, d_in = delta.shape
        if d_out <= d_in:
            return cls(torch.eye(d_out, dtype=delta.dtype), delta)
        return cls(delta, torch.eye(d_in, dtype=delta.dtype))

    @classmethod
    def sum(cls, updates: Sequence[LowRankUpdate], scale: float = 1.0) -> LowRankUpdate:
        """``scale`` times the sum of several updates, in factors of no more than full rank."""
        total = cls(
            torch.cat([scale * update.left for update in updates], dim=1),
            torch.cat([update.right for update in updates], dim=0),
        )
        return total if total.left.shape[1] < min(total.shape) else cls.from_dense(total.dense())

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)``."""
        return self.left.shape[0], self.right.shape[1]

    @cached_property
    def sha256(self) -> str:
        """Digest of the factors' types, shapes and bytes; two updates with one digest are equal."""
        digest = hashlib.sha256()
        for factor in (self.left, self.right):
            digest.update(f"{factor.dtype} {tuple(factor.shape)}".encode())
            flat = factor.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def dense(self) -> Tensor:
        """``Delta [d_out, d_in]``."""
        return self.left @ self.right


def relative_distance(update: LowRankUpdate, reference: LowRankUpdate) -> float:
    """``|D - D_ref| / |D_ref|`` in the Frobenius norm."""
    expected = reference.dense()
    return float((update.dense() - expected).norm() / expected.norm())
