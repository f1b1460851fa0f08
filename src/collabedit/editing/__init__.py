"""Editing: contexts, keys, targets, and the statistics that follow from them."""

from collabedit.editing.contexts import Contexts, bare_contexts, sample_contexts
from collabedit.editing.editors import Editor, editors, resolve_editor
from collabedit.editing.fine_tuning import fine_tune
from collabedit.editing.hyperparameters import Hyperparameters
from collabedit.editing.keys import Measurement, measure
from collabedit.editing.presets import Preset, default_hyperparameters
from collabedit.editing.targets import TargetCache, optimise_targets

__all__ = [
    "Contexts",
    "Editor",
    "Hyperparameters",
    "Measurement",
    "Preset",
    "TargetCache",
    "bare_contexts",
    "default_hyperparameters",
    "editors",
    "fine_tune",
    "measure",
    "optimise_targets",
    "resolve_editor",
    "sample_contexts",
]
