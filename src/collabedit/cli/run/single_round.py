"""``collabedit run single-round``: one round, merged by each method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.run.study import study

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run

__all__ = ["single_round"]


@study("single-round", "SingleRoundSettings")
def single_round(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    secure_aggregation: Annotated[
        bool,
        typer.Option(
            "--secure-aggregation",
            help="Merge by masked sums, which hide each party from the coordinator "
            "(docs/explanation/privacy.md); use with --merge CollabEdit,GLOBAL.",
        ),
    ],
) -> Run:
    """Run one round with several parties, merge by each method, and evaluate before and after.

    Targets are found once for all methods. Run the same command again to continue an interrupted
    run.
    """
    from collabedit.experiments import SingleRoundSettings, single_round

    return single_round(
        SingleRoundSettings.checked(**common, secure_aggregation=secure_aggregation),
        results,
        fresh=fresh,
        executor=executor,
    )
