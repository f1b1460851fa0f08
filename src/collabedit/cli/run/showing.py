"""Showing a finished run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collabedit.experiments import Run
    from collabedit.reporting.results import RunResult

__all__ = ["ResultsOption", "show_result", "show_run"]

ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of all results.")]


def show_run(run: Run) -> None:
    """Print a finished run's tables, plot it and say where it is."""
    from collabedit.reporting.results import RunResult

    show_result(RunResult.load(run.folder), run.folder, title=str(run.folder))


def show_result(result: RunResult, folder: Path, *, title: str, verdict: str = "") -> None:
    """Print a result's tables, plot it and say where it is."""
    from collabedit.reporting.plots import save_plot
    from collabedit.reporting.tables import console, tables_of

    for table in tables_of(result, title):
        console().print(table.rich())
    plot = save_plot(result, folder / "plot.png")
    if verdict:
        print(verdict)
    files = ["summary.json", "params.json", *result.files, *(["plot.png"] if plot else [])]
    print(f"Results: {folder}/ ({', '.join(files)})")
    print(f"As a page: collabedit report {shlex.quote(str(folder))} -o report.html")
