"""``collabedit run multi-round``: several rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.options import read_decimals
from collabedit.cli.run.study import BetaOption, study

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run

__all__ = ["multi_round"]


@study("multi-round", "MultiRoundSettings", counted=True)
def multi_round(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    rounds: Annotated[int, typer.Option("--rounds", "-r", help="Number of rounds.")],
    beta: BetaOption,
) -> Run:
    """Edit in several rounds; after each, measure the edits of all rounds so far.

    Each method follows its own trajectory: targets are optimised on the model after its own earlier
    rounds. A killed run continues from its last finished round.
    """
    from collabedit.experiments import MultiRoundSettings, multi_round

    betas = None if beta is None else read_decimals(beta, "--beta")
    settings = MultiRoundSettings.checked(**common, rounds=rounds, beta=betas)
    return multi_round(settings, results, fresh=fresh, executor=executor)
