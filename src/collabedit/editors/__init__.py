"""Editors: how edits become a change of weights, and the settings and contexts they work with.

Needs no model. An editor is a row of the registry with a prior of its own
(``collabedit.editors.priors``); how its edits are measured is in :mod:`collabedit.editing`.
"""

from collabedit.editors.contexts import (
    Contexts,
    bare_contexts,
    context_weights,
    kept_templates,
    load_contexts,
    target_weights,
    validate_contexts,
)
from collabedit.editors.hyperparameters import Hyperparameters
from collabedit.editors.presets import (
    Preset,
    default_hyperparameters,
    preset_hyperparameters,
    preset_names,
)
from collabedit.editors.priors import CovariancePrior, IdentityPrior, NullSpacePrior, PriorSpec
from collabedit.editors.registry import (
    DEFAULT_EDITOR,
    Editor,
    Procedure,
    editors,
    register_editor,
    resolve_editor,
)

__all__ = [
    "DEFAULT_EDITOR",
    "Contexts",
    "CovariancePrior",
    "Editor",
    "Hyperparameters",
    "IdentityPrior",
    "NullSpacePrior",
    "Preset",
    "PriorSpec",
    "Procedure",
    "bare_contexts",
    "context_weights",
    "default_hyperparameters",
    "editors",
    "kept_templates",
    "load_contexts",
    "preset_hyperparameters",
    "preset_names",
    "register_editor",
    "resolve_editor",
    "target_weights",
    "validate_contexts",
]
