"""Collaborative knowledge editing of language models: many parties' edits, merged without loss.

>>> import collabedit
>>> result = collabedit.edit("smollm2-135m", [
...     {"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"},
... ])                                                                      # doctest: +SKIP
>>> result.save("edited-model")                                             # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from collabedit._version import __version__

if TYPE_CHECKING:
    from collabedit.collaboration import EditResult, collaborate, edit, edit_alone, merge_edits
    from collabedit.covariance import default_covariance
    from collabedit.datasets import load_dataset, partition
    from collabedit.editing import TargetCache
    from collabedit.editors import Hyperparameters, editors, resolve_editor
    from collabedit.errors import CollabEditError
    from collabedit.evaluation import evaluate, summarise
    from collabedit.export import save_edited_model
    from collabedit.merging import merge_methods, resolve_method
    from collabedit.messages import (
        Contribution,
        Covariance,
        Delta,
        RoundConfig,
        RoundState,
        Schedule,
    )
    from collabedit.models import LanguageModel, load_model
    from collabedit.parties import Party, apply_delta, new_round
    from collabedit.requests import EditRequest, Record, load_records
    from collabedit.rounds import (
        Coordinator,
        Ledger,
        dynamic_priors,
        merge_deltas,
        run_round,
        static_priors,
    )
    from collabedit.transports import InProcess, run_in_process

#: Where each public name is defined. They are imported at first use, so that the command line
#: starts without loading torch.
_HOMES = {
    "collaboration": ("EditResult", "collaborate", "edit", "edit_alone", "merge_edits"),
    "covariance": ("default_covariance",),
    "datasets": ("load_dataset", "partition"),
    "editing": ("TargetCache",),
    "editors": ("Hyperparameters", "editors", "resolve_editor"),
    "errors": ("CollabEditError",),
    "evaluation": ("evaluate", "summarise"),
    "export": ("save_edited_model",),
    "merging": ("merge_methods", "resolve_method"),
    "messages": ("Contribution", "Covariance", "Delta", "RoundConfig", "RoundState", "Schedule"),
    "models": ("LanguageModel", "load_model"),
    "parties": ("Party", "apply_delta", "new_round"),
    "requests": ("EditRequest", "Record", "load_records"),
    "rounds": (
        "Coordinator",
        "Ledger",
        "dynamic_priors",
        "merge_deltas",
        "run_round",
        "static_priors",
    ),
    "transports": ("InProcess", "run_in_process"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CollabEditError",
    "Contribution",
    "Coordinator",
    "Covariance",
    "Delta",
    "EditRequest",
    "EditResult",
    "Hyperparameters",
    "InProcess",
    "LanguageModel",
    "Ledger",
    "Party",
    "Record",
    "RoundConfig",
    "RoundState",
    "Schedule",
    "TargetCache",
    "__version__",
    "apply_delta",
    "collaborate",
    "default_covariance",
    "dynamic_priors",
    "edit",
    "edit_alone",
    "editors",
    "evaluate",
    "load_dataset",
    "load_model",
    "load_records",
    "merge_deltas",
    "merge_edits",
    "merge_methods",
    "new_round",
    "partition",
    "resolve_editor",
    "resolve_method",
    "run_in_process",
    "run_round",
    "save_edited_model",
    "static_priors",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'collabedit' has no attribute {name!r}")
    return getattr(import_module(f"collabedit.{_HOME_OF[name]}"), name)
