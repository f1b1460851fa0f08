"""Measuring edits on a model: contexts, keys and targets."""

from collabedit.editing.contexts import chat_contexts, default_contexts, sample_contexts
from collabedit.editing.keys import Measurement, measure
from collabedit.editing.targets import TargetCache, optimise_targets

__all__ = [
    "Measurement",
    "TargetCache",
    "chat_contexts",
    "default_contexts",
    "measure",
    "optimise_targets",
    "sample_contexts",
]
