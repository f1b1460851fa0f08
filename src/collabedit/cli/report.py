"""``collabedit report``: finished runs as an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders such as results/MEMIT/run_000.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The page to write; an older one is replaced.")
    ] = Path("report.html"),
    every_edit: Annotated[
        bool,
        typer.Option("--every-edit", help="Show all edits, however large the page becomes."),
    ] = False,
) -> None:
    """Write an HTML page that shows a finished run, or several side by side.

    It is a single file that needs no network. It contains the text of the edits: share it only with
    people who may read them.
    """
    from collabedit.files import check_output_file, write_text
    from collabedit.reporting.html import report_page
    from collabedit.reporting.results import RunResult

    check_output_file(out)
    results = {str(run): RunResult.load(run, with_cases=True) for run in runs}
    page = report_page(results, every_edit=every_edit)
    write_text(out, page)
    print(f"Report: {out} ({len(page.encode()) / 1000:,.0f} kB, opens in any browser)")
