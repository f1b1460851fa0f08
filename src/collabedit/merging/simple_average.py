"""SA: the simple average of the parties' updates."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.algebra import LowRankUpdate
from collabedit.merging.registry import Merges, merge_method

__all__ = ["simple_average"]


@merge_method("SA", Merges.UPDATES, "https://arxiv.org/abs/2203.05482")
def simple_average(updates: Sequence[LowRankUpdate]) -> LowRankUpdate:
    """The mean of the parties' own updates (Wortsman et al., 2022).

    Args:
        updates: each party's update of the weight; the mean is over as many as there are.
    """
    return LowRankUpdate.sum(updates, 1 / len(updates))
