"""Tables of finished runs: for the terminal, and as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from collabedit.evaluation import metrics
from collabedit.reporting.editor_tables import editor_grids, editor_rows
from collabedit.reporting.tuning_tables import tuning_grids

__all__ = ["console", "summary_csv", "summary_rows", "summary_table", "summary_tables"]

_DISTANCE = "distance_from_global"
_WIDTH_IN_FILES = 160


def console() -> Console:
    """The console that tables are printed on: standard output, in files wide enough for all."""
    out = Console()
    return out if out.is_terminal else Console(width=max(_WIDTH_IN_FILES, out.width))


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a method, the unedited model (if measured) first, with the distance from GLOBAL's.

    A comparison of editors has a row for each editor, schedule and method.
    """
    if "editors" in summary:
        return editor_rows(summary)
    distances = summary.get("delta_relative_to_global", {})
    rows = [{"method": "unedited", **summary["unedited"]}] if "unedited" in summary else []
    for name, measured in summary["methods"].items():
        row = {"method": name, **measured}
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
    columns = [
        each for each in metrics() if each.key != _DISTANCE and any(each.key in row for row in rows)
    ]
    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    for each in columns:
        table.add_column(each.heading, justify="right", overflow="fold")  # never cut a number
    has_distance = any(_DISTANCE in row for row in rows)
    if has_distance:
        table.add_column("distance", justify="right", no_wrap=True)
    for row in rows:
        cells = [
            f"{row[each.key]:.{each.decimals}f}" if each.key in row else "" for each in columns
        ]
        if has_distance:
            cells.append(f"{row[_DISTANCE]:.1e}" if _DISTANCE in row else "")
        table.add_row(row["method"], *cells)
    return table


def summary_tables(summary: Mapping[str, Any], title: str) -> list[Table]:
    """All that a study's summary has to show, the methods' table first."""
    if "editors" in summary:
        return [grid.rich() for grid in editor_grids(summary, title)]
    if "trace" in summary:
        return [grid.rich() for grid in tuning_grids(summary, title)]
    tables = [summary_table(summary, title)]
    if "rounds" in summary:
        tables.append(_rounds_table(summary["rounds"]))
    if "curves" in summary:
        tables.append(
            _series_table(
                "The target set after further edits",
                summary["curves"],
                {"further_edits": ("further", 0), **_SCORES},
            )
        )
    if "repeated" in summary:
        rounds = {
            name: [
                {**row, "round": number, **_by_layer(row["residual_norms"])}
                for number, row in enumerate(rows, start=1)
            ]
            for name, rows in summary["repeated"].items()
        }
        layers = {
            key: (f"|R| {key}", 2)
            for rows in rounds.values()
            for key in rows[0]
            if key.startswith("layer ")
        }
        tables.append(
            _series_table(
                "The same edits in every round",
                rounds,
                {
                    "round": ("round", 0),
                    "edits": ("edits", 0),
                    "skipped": ("skipped", 0),
                    **layers,
                    **_SCORES,
                },
            )
        )
        tables.append(
            _series_table(
                "The same edits from several parties in one round",
                summary["copies"],
                {
                    "copies": ("parties", 0),
                    "relative_norm": ("|D| / |D of first|", 2),
                    "remaining_residual": ("|z - h| left", 2),
                    **_SCORES,
                },
            )
        )
    return tables


_SCORES = {each.key: (each.heading, each.decimals or 0) for each in metrics("headline")}


def _by_layer(norms: Mapping[str, float]) -> dict[str, float]:
    """Norms by ``layer N`` instead of the weight's name."""
    numbers = {name: re.search(r"\.(\d+)\.", name) for name in norms}
    return {
        f"layer {found.group(1)}" if found else name: norms[name] for name, found in numbers.items()
    }


def _rounds_table(rounds: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> Table:
    """Score of the edits of each round, after each round: how they fade."""
    series = {
        name: [
            {
                "after": after,
                **{str(n): metrics.get("score", math.nan) for n, metrics in enumerate(part, 1)},
            }
            for after, part in enumerate(parts, 1)
        ]
        for name, parts in rounds.items()
    }
    count = max(map(len, rounds.values()))
    columns = {str(number): (f"round {number}", 1) for number in range(1, count + 1)}
    return _series_table(
        "Score of the edits of each round",
        series,
        {"after": ("measured after round", 0), **columns},
    )


def _series_table(
    title: str,
    series: Mapping[str, Sequence[Mapping[str, Any]]],
    columns: Mapping[str, tuple[str, int]],
) -> Table:
    """Several rows a method; a column is a key with its heading and decimals."""
    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    for heading, _ in columns.values():
        table.add_column(heading, justify="right", overflow="fold")  # never cut a number
    for method, rows in series.items():
        for number, row in enumerate(rows):
            cells = [
                f"{row[key]:.{digits}f}" if key in row else ""
                for key, (_, digits) in columns.items()
            ]
            table.add_row("" if number else method, *cells, end_section=number == len(rows) - 1)
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
