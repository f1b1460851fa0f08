"""``collabedit models pull``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["pull"]


def pull(name: Annotated[str, typer.Argument(help="A built-in name.")]) -> None:
    """Download a built-in model into the cache, so that later commands start immediately."""
    from collabedit.models import catalogue

    print(catalogue.fetch(name))
