"""Editors: how edits become a change of weights, with their settings and contexts.

Needs no model. An editor is a row of the registry with its prior
(``collabedit.editors.priors``); :mod:`collabedit.editing` measures its edits.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from collabedit.editors.schedule import Schedule, parse_schedule

#: Where each name is defined. Names are imported on first use, so that the command line can list
#: the editors without loading pydantic.
_HOMES = {
    "contexts": (
        "Contexts",
        "bare_contexts",
        "context_weights",
        "kept_templates",
        "load_contexts",
        "target_weights",
        "validate_contexts",
    ),
    "hyperparameters": ("Hyperparameters",),
    "presets": ("Preset", "default_hyperparameters", "preset_hyperparameters", "preset_names"),
    "priors": ("CovariancePrior", "IdentityPrior", "NullSpacePrior", "PriorSpec"),
    "registry": (
        "DEFAULT_EDITOR",
        "Editor",
        "Procedure",
        "editors",
        "register_editor",
        "resolve_editor",
    ),
    "schedule": ("Schedule", "parse_schedule"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

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
    "Schedule",
    "bare_contexts",
    "context_weights",
    "default_hyperparameters",
    "editors",
    "kept_templates",
    "load_contexts",
    "parse_schedule",
    "preset_hyperparameters",
    "preset_names",
    "register_editor",
    "resolve_editor",
    "target_weights",
    "validate_contexts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'collabedit.editors' has no attribute {name!r}")
    return getattr(import_module(f"collabedit.editors.{_HOME_OF[name]}"), name)
