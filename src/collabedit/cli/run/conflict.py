"""``collabedit run conflict``: other answers to the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.run.study import study

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run

__all__ = ["conflict"]


@study("conflict", "ConflictSettings")
def conflict(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    modes: Annotated[
        str,
        typer.Option(
            "--mode",
            help="whether-conflict (edit A, measure B), performance-a (A, A), performance-b "
            "(A and B, A), performance-a+b (A and B, B), single-b (B, B); comma-separated, or all.",
        ),
    ],
    conflicts: Annotated[
        str | None,
        typer.Option(help="A file of B: the same questions with other answers; made by default."),
    ],
) -> Run:
    """Have other parties give different answers (B) to the same questions (A).

    --parties and --edits-per-party define A; as many other parties hold B.
    """
    from collabedit.experiments import ConflictSettings, conflict
    from collabedit.settings import MODES

    asked = tuple(name.strip() for name in modes.lower().split(","))
    names = tuple(MODES) if asked == ("all",) else asked
    settings = ConflictSettings.checked(**common, conflicts=conflicts, modes=names)
    return conflict(settings, results, fresh=fresh, executor=executor)
