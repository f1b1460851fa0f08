"""One line for what goes wrong while a model is loaded: the cause, and what to do."""

from __future__ import annotations

from collabedit.errors import ModelError

__all__ = ["loading_error"]


def loading_error(name: str, error: Exception) -> ModelError:
    """The error to raise for what a library raised while it loaded the model ``name``."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(f"cannot load the model {name!r}: {first_line}")
