"""WSA: the average of the parties' updates, weighted."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.merging.registry import Merges, merge_method

__all__ = ["weighted_average"]


@merge_method("WSA", Merges.UPDATES, "https://arxiv.org/abs/1602.05629")
def weighted_average(
    updates: Sequence[LowRankUpdate], weights: Sequence[float] | None = None
) -> LowRankUpdate:
    """The mean of the parties' own updates, weighted (McMahan et al., 2017).

    Args:
        updates: each party's update of the weight.
        weights: of the parties; in a round, their numbers of edits unless the user gives
            others. Equal by default.

    Raises:
        InputError: when there is not one weight per party, or they do not sum to a positive number.
    """
    chosen = [1.0] * len(updates) if weights is None else list(weights)
    if len(chosen) != len(updates) or min(chosen) < 0 or not 0 < sum(chosen) < float("inf"):
        raise InputError(f"WSA: {len(updates)} parties need a weight each, found {chosen}")
    total = sum(chosen)
    return LowRankUpdate.sum(
        [
            LowRankUpdate(weight / total * update.left, update.right)
            for update, weight in zip(updates, chosen, strict=True)
        ]
    )
