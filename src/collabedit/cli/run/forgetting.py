"""``collabedit run forgetting``: how further edits affect earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.options import read_decimals
from collabedit.cli.run.study import BetaOption, study

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run

__all__ = ["forgetting"]


@study("forgetting", "ForgettingSettings")
def forgetting(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    further: Annotated[int, typer.Option(help="Number of edits made after the target set.")],
    batch: Annotated[int, typer.Option(help="How many of them are made at a time.")],
    beta: BetaOption,
    measure_every: Annotated[
        int, typer.Option(help="Number of batches between evaluations of the target set.")
    ],
) -> Run:
    """Edit a target set, then further edits one at a time, and watch the target set fade.

    Compares the static covariance (beta 0) with the dynamic one.
    """
    from collabedit.experiments import ForgettingSettings, forgetting

    settings = ForgettingSettings.checked(
        **common,
        further=further,
        batch=batch,
        beta=None if beta is None else read_decimals(beta, "--beta"),
        measure_every=measure_every,
    )
    return forgetting(settings, results, fresh=fresh, executor=executor)
