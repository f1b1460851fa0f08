"""``collabedit stats show``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["show"]


def show(
    file: Annotated[Path, typer.Argument(help="A covariance file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a covariance file contains and how accurate it is."""
    from collabedit.cli.stats.table import facts, print_covariance, rows
    from collabedit.messages import Covariance

    covariance = Covariance.load(file)
    if as_json:
        print(json.dumps({**facts(covariance), "weights": rows(covariance)}, indent=2))
        return
    print_covariance(covariance, file)
