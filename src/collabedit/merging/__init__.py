"""Merging several parties' edits into one update, and the steps after merging."""

from collabedit.merging.after_merge import (
    AfterMerge,
    AfterMergeStep,
    after_merge,
    after_merges,
    apply_steps,
    resolve_after_merge,
)
from collabedit.merging.collab_edit import collab_edit
from collabedit.merging.dare import dare
from collabedit.merging.pooled import POOLED, pooled
from collabedit.merging.prune import prune
from collabedit.merging.rect import rect
from collabedit.merging.registry import (
    MergeMethod,
    Merges,
    merge_method,
    merge_methods,
    resolve_method,
)
from collabedit.merging.simple_average import simple_average
from collabedit.merging.sphere import sphere
from collabedit.merging.task_arithmetic import task_arithmetic
from collabedit.merging.ties import ties
from collabedit.merging.weighted_average import weighted_average

__all__ = [
    "POOLED",
    "AfterMerge",
    "AfterMergeStep",
    "MergeMethod",
    "Merges",
    "after_merge",
    "after_merges",
    "apply_steps",
    "collab_edit",
    "dare",
    "merge_method",
    "merge_methods",
    "pooled",
    "prune",
    "rect",
    "resolve_after_merge",
    "resolve_method",
    "simple_average",
    "sphere",
    "task_arithmetic",
    "ties",
    "weighted_average",
]
