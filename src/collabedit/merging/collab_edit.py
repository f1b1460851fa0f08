"""CollabEdit (Zheng et al., ICLR 2025): non-destructive merging."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.algebra import Factors, LowRankUpdate, Prior, solve
from collabedit.merging.registry import Merges, merge_method

__all__ = ["collab_edit"]


@merge_method("CollabEdit", Merges.STATISTICS)
def collab_edit(statistics: Sequence[Factors], prior: Prior) -> LowRankUpdate:
    """The update that one party holding all edits would compute; nothing is lost.

    ``Delta = (sum_j R_j K_j^T) (A0 + sum_j K_j K_j^T)^-1`` (CollabEdit, eq. 6).

    Args:
        statistics: each party's factors for the weight.
        prior: ``A0``, the same for all parties.
    """
    return solve(Factors.stack(statistics), prior)
