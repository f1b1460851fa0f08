"""RECT: keep the entries that change their weight the most."""

from __future__ import annotations

import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.merging.after_merge import after_merge

__all__ = ["rect"]


@after_merge("RECT", "https://arxiv.org/abs/2401.04700")
def rect(update: LowRankUpdate, weight: Tensor, *, keep: float = 0.4) -> LowRankUpdate:
    """Keep the entries whose change is largest relative to the weight's (Gu et al., 2024).

    A zero entry of the weight counts as changed infinitely. The result has full rank.

    Args:
        update: the merged change.
        weight: ``[d_out, d_in]``, to which it is added.
        keep: share of the entries to keep; ties at the threshold are all kept.

    Raises:
        InputError: when ``keep`` is not above 0 and at most 1.
    """
    if not 0 < keep <= 1:
        raise InputError(f"RECT: keep must be above 0 and at most 1, found {keep}")
    delta = update.dense()
    relative = torch.nan_to_num((delta / weight).abs(), nan=0.0, posinf=torch.inf)  # 0 / 0 is none
    dropped = relative.numel() - int(keep * relative.numel())
    if dropped == 0:
        return update
    threshold = relative.flatten().kthvalue(min(dropped + 1, relative.numel())).values
    return LowRankUpdate.from_dense(torch.where(relative >= threshold, delta, 0.0))
