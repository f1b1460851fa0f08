"""Collaborative knowledge editing of language models: many parties' edits, merged without loss."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collabedit.covariance import default_covariance
    from collabedit.datasets import load_dataset, partition
    from collabedit.editing import TargetCache
    from collabedit.editors import Hyperparameters, editors, resolve_editor
    from collabedit.errors import CollabEditError
    from collabedit.evaluation import evaluate, summarise
    from collabedit.export import save_edited_model
    from collabedit.merging import merge_methods, resolve_method
    from collabedit.messages import Contribution, Covariance, Delta, RoundConfig, Schedule
    from collabedit.models import LanguageModel, load_model
    from collabedit.parties import Party, new_round
    from collabedit.requests import EditRequest, Record, load_records
    from collabedit.rounds import Coordinator, merge_deltas
    from collabedit.transports import run_in_process

try:
    __version__ = version("collabedit")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

#: Where each public name is defined. They are imported at first use, so that the command line
#: starts without loading torch.
_HOMES = {
    "covariance": ("Covariance", "default_covariance"),
    "datasets": ("load_dataset", "partition"),
    "editing": ("Hyperparameters", "TargetCache", "editors", "resolve_editor"),
    "errors": ("CollabEditError",),
    "evaluation": ("evaluate", "summarise"),
    "export": ("save_edited_model",),
    "merging": ("merge_methods", "resolve_method"),
    "models": ("LanguageModel", "load_model"),
    "requests": ("EditRequest", "Record", "load_records"),
    "rounds": (
        "Coordinator",
        "Delta",
        "Contribution",
        "Party",
        "RoundConfig",
        "Schedule",
        "merge_deltas",
        "new_round",
        "run_in_process",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CollabEditError",
    "Contribution",
    "Coordinator",
    "Covariance",
    "Delta",
    "EditRequest",
    "Hyperparameters",
    "LanguageModel",
    "Party",
    "Record",
    "RoundConfig",
    "Schedule",
    "TargetCache",
    "__version__",
    "default_covariance",
    "editors",
    "evaluate",
    "load_dataset",
    "load_model",
    "load_records",
    "merge_deltas",
    "merge_methods",
    "new_round",
    "partition",
    "resolve_editor",
    "resolve_method",
    "run_in_process",
    "save_edited_model",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'collabedit' has no attribute {name!r}")
    return getattr(import_module(f"collabedit.{_HOME_OF[name]}"), name)
