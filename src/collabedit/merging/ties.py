"""TIES: trim, elect signs, merge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.merging.registry import Merges, merge_method

__all__ = ["ties"]


@merge_method("TIES", Merges.UPDATES, "https://arxiv.org/abs/2306.01708")
def ties(
    updates: Sequence[LowRankUpdate], *, keep: float = 0.2, scale: float = 0.4
) -> LowRankUpdate:
    """Trim small entries, elect each entry's sign, average agreeing ones (Yadav et al., 2023).

    Args:
        updates: each party's update of the weight.
        keep: share of each update's entries to keep, the largest by magnitude.
        scale: factor of the result.

    Raises:
        InputError: when ``keep`` is not above 0 and at most 1.
    """
    if not 0 < keep <= 1:
        raise InputError(f"TIES: keep must be above 0 and at most 1, found {keep}")
    trimmed = [trim(update.dense(), keep) for update in updates]
    mass = torch.stack(trimmed).sum(dim=0)
    sign = mass.sign()
    sign[sign == 0] = sign.sum().sign()
    total, count = torch.zeros_like(mass), torch.zeros_like(mass)
    for delta in trimmed:
        agrees = delta * sign > 0
        total += torch.where(agrees, delta, 0.0)
        count += agrees
    return LowRankUpdate.from_dense(scale * total / count.clamp(min=1))


def trim(delta: Tensor, keep: float) -> Tensor:
    """Zero all but the largest entries by magnitude.

    Args:
        delta: any shape.
        keep: share of the entries to keep; ties at the threshold are all kept.
    """
    magnitude = delta.abs()
    dropped = magnitude.numel() - int(keep * magnitude.numel())
    if dropped < 1:
        return delta
    threshold = magnitude.flatten().kthvalue(dropped).values
    return torch.where(magnitude >= threshold, delta, 0.0)
