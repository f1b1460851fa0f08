"""Making one update of several parties' edits."""

from collabedit.merging.collab_edit import collab_edit
from collabedit.merging.dare import dare
from collabedit.merging.pooled import POOLED, pooled
from collabedit.merging.registry import (
    MergeMethod,
    Merges,
    merge_method,
    merge_methods,
    resolve_method,
)
from collabedit.merging.simple_average import simple_average
from collabedit.merging.task_arithmetic import task_arithmetic
from collabedit.merging.ties import ties
from collabedit.merging.weighted_average import weighted_average

__all__ = [
    "POOLED",
    "MergeMethod",
    "Merges",
    "collab_edit",
    "dare",
    "merge_method",
    "merge_methods",
    "pooled",
    "resolve_method",
    "simple_average",
    "task_arithmetic",
    "ties",
    "weighted_average",
]
