"""DARE: drop and rescale."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.merging.registry import Merges, merge_method

__all__ = ["dare"]


@merge_method("DARE", Merges.UPDATES, "https://arxiv.org/abs/2311.03099")
def dare(
    updates: Sequence[LowRankUpdate],
    *,
    drop: float = 0.9,
    scale: float = 1.0,
    seed: int = 0,
    name: str = "",
) -> LowRankUpdate:
    """Drop entries at random, rescale the others, sum (Yu et al., 2024).

    The expectation over seeds is task arithmetic's sum. The mask depends only on the seed, the
    weight's name and shape, and the party's position.

    Args:
        updates: each party's update of the weight.
        drop: probability that an entry is dropped; the others are divided by ``1 - drop``.
        scale: factor of the sum.
        seed: of the masks.
        name: of the weight, so that layers of the same shape have different masks.

    Raises:
        InputError: when ``drop`` is not at least 0 and below 1.
    """
    if not 0 <= drop < 1:
        raise InputError(f"DARE: drop must be at least 0 and below 1, found {drop}")
    key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    kept = [
        update.dense() * (torch.rand(update.shape, generator=generator) >= drop)
        for update in updates
    ]
    return LowRankUpdate.from_dense(scale / (1 - drop) * torch.stack(kept).sum(dim=0))
