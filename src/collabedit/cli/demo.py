"""``collabedit demo``: the main job on a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import SeedOption
from collabedit.cli.run.showing import ResultsOption

__all__ = ["demo"]


def demo(
    results: ResultsOption = Path("results"),
    seed: SeedOption = default_of("seed"),
    full: Annotated[
        bool, typer.Option("--full", help="Run the full demonstration, however long it takes.")
    ] = False,
) -> None:
    """Show the main job on a real model: four parties, eight facts each, five ways to merge.

    Takes a few minutes on two cores, and needs only this package. If a short trial predicts that it
    takes more than five minutes here, it shrinks to two parties with four facts each.
    """
    from collabedit.experiments.demo import FULL, run_demo
    from collabedit.planning.demonstration import demonstration_for

    chosen = FULL if full else demonstration_for()
    run_demo(results, chosen.model_copy(update={"seed": seed}))
