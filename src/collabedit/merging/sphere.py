"""SPHERE: damp changes along the principal directions of the weight's rows."""

from __future__ import annotations

import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.merging.after_merge import after_merge

__all__ = ["sphere"]


@after_merge("SPHERE", "https://arxiv.org/abs/2510.01172")
def sphere(
    update: LowRankUpdate, weight: Tensor, *, energy: float = 0.5, strength: float = 0.8
) -> LowRankUpdate:
    """Damp the change along the principal directions of the weight's rows (Liu et al., 2026).

    ``Delta (I - strength * U U^T)``, where ``U`` spans the fewest principal directions of the
    normalised rows that hold more than ``energy`` of their second moment. The factors keep
    their rank.

    Args:
        update: the merged change.
        weight: ``[d_out, d_in]``, to which it is added.
        energy: share of the rows' second moment (``beta_hse`` in their code); 1 means all of it.
        strength: share of the change along these directions that is removed (``alpha``).

    Raises:
        InputError: when either is not above 0 and at most 1.
    """
    for name, value in (("energy", energy), ("strength", strength)):
        if not 0 < value <= 1:
            raise InputError(f"SPHERE: {name} must be above 0 and at most 1, found {value}")
    rows = weight / weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    moments = values.square().cumsum(dim=0)
    count = int((moments <= energy * moments[-1]).sum()) + 1  # slicing past the end is harmless
    main = directions[:count]
    along = (update.right @ main.mT) @ main
    return LowRankUpdate(update.left, update.right - strength * along)
