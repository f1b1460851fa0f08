"""CollabEdit (Zheng et al., ICLR 2025): non-destructive merging."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.algebra import LowRankUpdate, Prior, Statistics, solve
from collabedit.merging.registry import Merges, merge_method

__all__ = ["collab_edit"]


@merge_method("CollabEdit", Merges.SUM, "https://arxiv.org/abs/2410.09508")
def collab_edit(
    statistics: Sequence[Statistics], prior: Prior, ridge: float = 1.0
) -> LowRankUpdate:
    """The update that one party holding all edits would compute; nothing is lost.

    ``Delta = (sum_j R_j K_j^T) (A0 + sum_j K_j K_j^T)^-1`` (CollabEdit, eq. 6), and likewise for
    the other closed-form editors.

    Args:
        statistics: each party's factors for the weight.
        prior: the editor's, the same for all parties.
        ridge: the editor's, see :func:`solve`.
    """
    return solve(statistics, prior, ridge)
