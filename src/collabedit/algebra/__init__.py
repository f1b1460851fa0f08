"""The linear algebra of editing: statistics, priors, and the update they determine.

Knows tensors only. Shapes: ``K [d_in, n]`` keys, ``R [d_out, n]`` residuals, ``F [d_in, r]`` and
``G [d_out, r]`` their factors, ``A0 [d_in, d_in]`` the prior, and every weight ``[d_out, d_in]``.
"""

from collabedit.algebra.prior import BlockPrior, Prior, condition_number
from collabedit.algebra.solve import Missed, missed, solve
from collabedit.algebra.statistics import Factors, Moments, Statistics, compress
from collabedit.algebra.updates import LowRankUpdate, relative_distance

__all__ = [
    "BlockPrior",
    "Factors",
    "LowRankUpdate",
    "Missed",
    "Moments",
    "Prior",
    "Statistics",
    "compress",
    "condition_number",
    "missed",
    "relative_distance",
    "solve",
]
