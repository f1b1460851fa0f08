"""TA: task arithmetic on the parties' updates."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.algebra import LowRankUpdate
from collabedit.merging.registry import Merges, merge_method

__all__ = ["task_arithmetic"]


@merge_method("TA", Merges.UPDATES, "https://arxiv.org/abs/2212.04089")
def task_arithmetic(updates: Sequence[LowRankUpdate], *, scale: float = 1.0) -> LowRankUpdate:
    """The scaled sum of the parties' own updates (Ilharco et al., 2023).

    Args:
        updates: each party's update of the weight.
        scale: factor of the sum.
    """
    return LowRankUpdate.sum(updates, scale)
