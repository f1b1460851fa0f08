"""``collabedit run overlap``: the same edits by several parties or over several rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.options import read_numbers
from collabedit.cli.run.study import study

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run

__all__ = ["overlap"]


@study("overlap", "OverlapSettings")
def overlap(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    rounds: Annotated[
        int, typer.Option("--rounds", "-r", help="Number of rounds with the same edits.")
    ],
    copies: Annotated[
        str, typer.Option(help="Numbers of parties with the same edits in one round, compared.")
    ],
    skip_known: Annotated[
        float,
        typer.Option(help="Parties skip facts that the model gives this probability per token."),
    ],
    beta: Annotated[float, typer.Option(help="Weight of earlier rounds' keys in the prior.")],
) -> Run:
    """Give all parties the same edits, in one round and over several.

    Shows how the residuals shrink over rounds, how copies of an edit affect the update of each
    method of --merge, and what parties save by skipping facts that the model already knows.
    """
    from collabedit.experiments import OverlapSettings, overlap

    settings = OverlapSettings.checked(
        **common,
        rounds=rounds,
        copies=read_numbers(copies, "--copies"),
        skip_known=skip_known,
        beta=beta,
    )
    return overlap(settings, results, fresh=fresh, executor=executor)
