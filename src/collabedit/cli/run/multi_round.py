"""``collabedit run multi-round``: several rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.options import read_decimals, read_names, read_numbers
from collabedit.cli.run.study import BetaOption, study

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run

__all__ = ["multi_round"]


@study("multi-round", "MultiRoundSettings")
def multi_round(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    rounds: Annotated[int, typer.Option("--rounds", "-r", help="Number of rounds.")],
    beta: BetaOption,
    measure: Annotated[
        str | None,
        typer.Option(
            help="Rounds after which the edits are measured, such as 1,5,10, besides the last one. "
            "All by default."
        ),
    ],
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="How many records of each round are measured; all by default."),
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Downstream tasks to measure as well, comma-separated, as for 'collabedit "
            "evaluate' (extra lm-eval)."
        ),
    ],
) -> Run:
    """Edit in several rounds; after each, measure the edits of all rounds so far.

    Each method follows its own trajectory: targets are optimised on the model that its earlier
    rounds left. A killed run continues from its last finished round. For long runs, measure only a
    --sample of the edits, after some rounds.
    """
    from collabedit.experiments import MultiRoundSettings, multi_round

    settings = MultiRoundSettings.checked(
        **common,
        rounds=rounds,
        beta=None if beta is None else read_decimals(beta, "--beta"),
        measure=None if measure is None else read_numbers(measure, "--measure"),
        sample=sample,
        tasks=read_names(tasks or ""),
    )
    return multi_round(settings, results, fresh=fresh, executor=executor)
