"""What the commands of ``collabedit stats`` share."""

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
    """The default file of a model's covariance."""
    return Path(f"{Path(model).name.removesuffix('.gguf')}-covariance.safetensors")
