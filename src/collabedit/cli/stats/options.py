"""What the verbs of ``collabedit stats`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["OutOption", "default_out"]

OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="File to write; MODEL-covariance.safetensors by default."),
]


def default_out(model: str) -> Path:
    """Where the covariance of a model goes unless the user says otherwise."""
    return Path(f"{Path(model).name.removesuffix('.gguf')}-covariance.safetensors")
