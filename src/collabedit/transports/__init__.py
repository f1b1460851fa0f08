"""Channels between a coordinator and parties, each a thin :class:`rounds.Transport`.

Names are imported on first use: a coordinator over a network needs none that loads a model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collabedit.transports.in_process import InProcess, run_in_process

__all__ = ["InProcess", "run_in_process"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("collabedit.transports.in_process"), name)
