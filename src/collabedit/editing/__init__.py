"""Editing: contexts, keys, targets, and the statistics that follow from them."""

from collabedit.editing.contexts import Contexts, bare_contexts, sample_contexts
from collabedit.editing.hyperparameters import Hyperparameters
from collabedit.editing.keys import Measurement, measure
from collabedit.editing.presets import Preset, default_hyperparameters
from collabedit.editing.targets import TargetCache, optimise_targets

__all__ = [
    "Contexts",
    "Hyperparameters",
    "Measurement",
    "Preset",
    "TargetCache",
    "bare_contexts",
    "default_hyperparameters",
    "measure",
    "optimise_targets",
    "sample_contexts",
]
