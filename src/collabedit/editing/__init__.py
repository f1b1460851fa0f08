"""Measuring edits on a model: contexts, keys and targets."""

from collabedit.editing.anchors import find_targets, measured_anchor
from collabedit.editing.contexts import chat_contexts, default_contexts, sample_contexts
from collabedit.editing.keys import Measurement, measure
from collabedit.editing.targets import Solve, TargetCache, optimise_targets

__all__ = [
    "Measurement",
    "Solve",
    "TargetCache",
    "chat_contexts",
    "default_contexts",
    "find_targets",
    "measure",
    "measured_anchor",
    "optimise_targets",
    "sample_contexts",
]
