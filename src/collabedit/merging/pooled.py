"""GLOBAL: one party holds all edits; the reference for all merge methods."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.algebra import LowRankUpdate, Prior, Statistics, solve
from collabedit.errors import RoundError
from collabedit.merging.registry import Merges, merge_method

__all__ = ["POOLED", "pooled"]

#: The paper's name for pooled editing.
POOLED = "GLOBAL"


@merge_method(POOLED, Merges.SUM, "https://arxiv.org/abs/2210.07229")
def pooled(statistics: Sequence[Statistics], prior: Prior, ridge: float = 1.0) -> LowRankUpdate:
    """The update of a single party that holds all edits (MEMIT, eq. 14), without merging.

    Args:
        statistics: the factors of that one party.
        prior: the editor's.
        ridge: the editor's, see :func:`solve`.

    Raises:
        RoundError: when there is more than one party.
    """
    if len(statistics) != 1:
        raise RoundError(
            f"GLOBAL is the edit of one party that holds all requests; it got {len(statistics)} "
            "parties' statistics. Use CollabEdit for the same update from several parties"
        )
    return solve(statistics[0], prior, ridge)
