"""``collabedit demo``: the main job on a real model."""

from __future__ import annotations

from pathlib import Path

from collabedit.cli.defaults import default_of
from collabedit.cli.options import SeedOption
from collabedit.cli.run.showing import ResultsOption

__all__ = ["demo"]


def demo(
    results: ResultsOption = Path("results"),
    seed: SeedOption = default_of("seed"),
) -> None:
    """Show the main job on a real model: four parties, eight facts each, five ways to merge.

    Takes a few minutes on two cores, and needs only this package.
    """
    from collabedit.experiments.demo import run_demo

    run_demo(results, seed)
