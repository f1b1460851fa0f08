"""PRUNE: no direction changes by much more than the weight's largest singular value."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.merging.after_merge import after_merge

__all__ = ["prune"]


@after_merge("PRUNE", "https://arxiv.org/abs/2405.16821", since_unedited=True)
def prune(update: LowRankUpdate, weight: Tensor, *, base: float = math.e) -> LowRankUpdate:
    """Restrain singular values above the weight's largest one, by a logarithm (Ma et al., 2025).

    With ``m`` the largest singular value of the unedited weight, a singular value ``s >= m`` of
    the change since then becomes ``m + log(s / m)``, the logarithm to the base ``base``. The
    factors keep their rank.

    Args:
        update: all changes since the unedited model.
        weight: ``[d_out, d_in]``, of the unedited model.
        base: of the logarithm; smaller values restrain less.

    Raises:
        InputError: when ``base`` is not above 1.
    """
    if base <= 1:
        raise InputError(f"PRUNE: base must be above 1, found {base}")
    most = torch.linalg.matrix_norm(weight, ord=2)
    left, inner_left = torch.linalg.qr(update.left)
    right, inner_right = torch.linalg.qr(update.right.mT)
    turn, values, back = torch.linalg.svd(inner_left @ inner_right.mT, full_matrices=False)
    if values.numel() == 0 or values[0] < most:
        return update
    restrained = most + (values / most).log() / math.log(base)
    values = torch.where(values >= most, restrained, values)
    return LowRankUpdate((left @ turn) * values, back @ right.mT)
