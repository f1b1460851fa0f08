"""Tables of finished runs: for the terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["console", "summary_csv", "summary_rows", "summary_table"]

#: Columns of a summary's table: key, heading, decimals.
_COLUMNS = (
    ("ES", "ES", 1),
    ("PS", "PS", 1),
    ("NS", "NS", 1),
    ("score", "Score", 1),
    ("rewrite_accuracy", "ES acc", 1),
    ("paraphrase_accuracy", "PS acc", 1),
    ("neighborhood_accuracy", "NS acc", 1),
    ("rewrite_token_accuracy", "ES tok", 1),
    ("paraphrase_token_accuracy", "PS tok", 1),
    ("neighborhood_token_accuracy", "NS tok", 1),
    ("fluency", "fluency", 1),
    ("consistency", "consist.", 1),
    ("perplexity", "ppl", 2),
)
_DISTANCE = "distance_from_global"


def console() -> Console:
    """The console that tables are printed on: standard output, never narrower than 100 columns."""
    out = Console()
    return out if out.is_terminal else Console(width=max(100, out.width))


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a method, the unedited model first, with the distance from GLOBAL's update."""
    distances = summary.get("delta_relative_to_global", {})
    rows = [{"method": "unedited", **summary["unedited"]}]
    for name, metrics in summary["methods"].items():
        row = {"method": name, **metrics}
        if name in distances:
            row[_DISTANCE] = distances[name]
        rows.append(row)
    return rows


def summary_table(summary: Mapping[str, Any], title: str) -> Table:
    """A summary as a table: methods by metrics.

    ``acc`` columns are accuracies, ``tok`` columns zsRE's token accuracies; the distance is the
    largest over layers of ``|D - D_GLOBAL| / |D_GLOBAL|``.
    """
    rows = summary_rows(summary)
    columns = [column for column in _COLUMNS if any(column[0] in row for row in rows)]
    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    has_distance = any(_DISTANCE in row for row in rows)
    if has_distance:
        table.add_column("distance", justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row[key]:.{digits}f}" if key in row else "" for key, _, digits in columns]
        if has_distance:
            cells.append(f"{row[_DISTANCE]:.1e}" if _DISTANCE in row else "")
        table.add_row(row["method"], *cells)
    return table


def summary_csv(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """All methods of several runs as CSV, one row a run and method."""
    rows = [
        {"run": run, **row} for run, summary in summaries.items() for row in summary_rows(summary)
    ]
    return _csv(rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    fields = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
