"""``collabedit summarize``: the results of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["summarize"]


def summarize(
    runs: Annotated[list[Path], typer.Argument(help="Folders such as results/MEMIT/run_000.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show the results of finished runs: tables, JSON or CSV."""
    import json

    from collabedit.reporting.results import RunResult
    from collabedit.reporting.tables import console, results_csv, tables_of

    results = {str(run): RunResult.load(run) for run in runs}
    if as_json:
        summaries = {run: result.summary() for run, result in results.items()}
        print(json.dumps(summaries, indent=2, ensure_ascii=False))
    elif as_csv:
        print(results_csv(results), end="")
    else:
        for run, result in results.items():
            for table in tables_of(result, run):
                console().print(table.rich())
