"""Making one update of several parties' edits."""

from collabedit.merging.collab_edit import collab_edit
from collabedit.merging.pooled import pooled
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

__all__ = [
    "MergeMethod",
    "Merges",
    "collab_edit",
    "merge_method",
    "merge_methods",
    "pooled",
    "resolve_method",
    "simple_average",
    "task_arithmetic",
    "ties",
]
