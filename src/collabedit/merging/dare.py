"""DARE: drop and rescale."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.merging.registry import Merges, merge_method

__all__ = ["dare"]


@merge_method("DARE", Merges.UPDATES)
def dare(
    updates: Sequence[LowRankUpdate], *, drop: float = 0.9, scale: float = 1.0, seed: float = 0
) -> LowRankUpdate:
    """Drop entries at random, rescale the others, sum (Yu et al., 2024).

    The expectation over seeds is task arithmetic's sum. Which entries a party loses hangs on the
    seed, its place among the parties and the shape of the weight, and on nothing else.

    Args:
        updates: each party's update of the weight.
        drop: probability that an entry is dropped; the others are divided by ``1 - drop``.
        scale: factor of the sum.
        seed: of the choice, a whole number.

    Raises:
        InputError: when ``drop`` is not at least 0 and below 1, or the seed cannot be used.
    """
    if not 0 <= drop < 1:
        raise InputError(f"DARE: drop must be at least 0 and below 1, found {drop}")
    if seed != int(seed) or not 0 <= seed < 2**63:
        raise InputError(f"DARE: seed must be a whole number of 0 or more, found {seed}")
    generator = torch.Generator().manual_seed(int(seed))
    kept = [
        update.dense() * (torch.rand(update.shape, generator=generator) >= drop)
        for update in updates
    ]
    return LowRankUpdate.from_dense(scale / (1 - drop) * torch.stack(kept).sum(dim=0))
