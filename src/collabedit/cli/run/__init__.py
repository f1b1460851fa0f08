"""``collabedit run``: reproducible experiments, one study per file."""

from __future__ import annotations

import typer

from collabedit.cli.run.augmentation import augmentation
from collabedit.cli.run.conflict import conflict
from collabedit.cli.run.editors import editors
from collabedit.cli.run.forgetting import forgetting
from collabedit.cli.run.multi_round import multi_round
from collabedit.cli.run.overlap import overlap
from collabedit.cli.run.single_round import single_round

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Run an experiment and keep its results.")
for _study in (single_round, editors, multi_round, forgetting, overlap, conflict, augmentation):
    app.command(_study.__name__)(_study)
