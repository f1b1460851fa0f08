"""Tables of a comparison of editors: for the terminal and as Markdown, from the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from collabedit.evaluation import Metric, metric, metrics

__all__ = ["Grid", "editor_grids", "editor_rows"]

_NAMES = ("editor", "schedule", "method")

_DISTANCE = "distance_from_global"


@dataclass(frozen=True)
class Cell:
    """A text, and whether it is the best of those that it is compared with."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn.

    Attributes:
        title: above it.
        headings: of the columns, names first.
        names: number of columns that hold names.
        sections: rows of cells, in groups.
        note: below it.
    """

    title: str
    headings: Sequence[str]
    names: int
    sections: Sequence[Sequence[Sequence[Cell]]]
    note: str

    def rich(self) -> Table:
        """The table for the terminal."""
        table = Table(title=self.title, title_justify="left", caption=self.note)
        table.caption_justify = "left"
        for place, heading in enumerate(self.headings):
            is_name = place < self.names
            table.add_column(
                heading,
                justify="left" if is_name else "right",
                overflow="fold",  # never cut a number
                no_wrap=is_name,
            )
        for section in self.sections:
            for row in section:
                table.add_row(*(Text(c.text, style="bold" if c.best else "") for c in row))
            table.add_section()
        return table

    def markdown(self) -> str:
        """The table as GitHub's Markdown."""
        rules = ["---"] * self.names + ["---:"] * (len(self.headings) - self.names)
        rows = [list(self.headings), rules]
        for section in self.sections:
            rows += [[f"**{c.text}**" if c.best else c.text for c in row] for row in section]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([f"## {self.title}", "", *lines, "", self.note, ""])


def editor_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an editor, schedule and method, the unedited model first."""
    rows = [{"editor": "", "schedule": "", "method": "unedited", **summary["unedited"]}]
    for part in summary["editors"]:
        rows += _part_rows(part)
    return rows


def _part_rows(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    distances = part["delta_relative_to_global"]
    rows = []
    for name, measured in part["methods"].items():
        row = {"editor": part["editor"], "schedule": part["schedule"], "method": name, **measured}
        if name in distances:
            row[_DISTANCE] = distances[name]
        rows.append(row)
    return rows


def editor_grids(summary: Mapping[str, Any], title: str) -> list[Grid]:
    """All measures of all editors, and the Scores alone, editors by methods."""
    grids = [_measures(summary, title)]
    if any("score" in row for row in editor_rows(summary)[1:]):
        grids.append(_scores(summary))
    return grids


def _measures(summary: Mapping[str, Any], title: str) -> Grid:
    rows = editor_rows(summary)
    columns = [each for each in metrics("comparison") if any(each.key in row for row in rows)]
    headings = [*_NAMES, *(each.heading for each in columns)]
    has_distance = any(_DISTANCE in row for row in rows)
    sections = [_section(rows[:1], columns, has_distance, marked=False)]
    for part in summary["editors"]:
        sections.append(_section(_part_rows(part), columns, has_distance))
    notes = ["Bold: the best of an editor and schedule."]
    if has_distance:
        headings.append("distance")
        notes.append("distance: of the update from GLOBAL's, |D - D_GLOBAL| / |D_GLOBAL|.")
    if any(part["schedule"] == "either" for part in summary["editors"]):
        notes.append("either: the schedule makes no difference (one layer), measured once.")
    return Grid(title, headings, len(_NAMES), sections, " ".join(notes))


def _section(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Metric],
    has_distance: bool,
    marked: bool = True,
) -> list[list[Cell]]:
    """The rows of one editor and schedule, which it names once."""
    lines: list[list[Cell]] = []
    for number, row in enumerate(rows):
        names = [row[name] if name == "method" or not number else "" for name in _NAMES]
        lines.append([Cell(name) for name in names])
    for each in columns:
        texts = [f"{row[each.key]:.{each.decimals}f}" if each.key in row else "" for row in rows]
        _extend(lines, texts, each if marked else None)
    if has_distance:
        _extend(lines, [f"{r[_DISTANCE]:.1e}" if _DISTANCE in r else "" for r in rows], None)
    return lines


def _scores(summary: Mapping[str, Any]) -> Grid:
    """The Scores, a row an editor and schedule, a column a method."""
    parts = summary["editors"]
    methods = list(dict.fromkeys(name for part in parts for name in part["methods"]))
    lines = [[Cell(part["editor"]), Cell(part["schedule"])] for part in parts]
    for method in methods:
        found = [part["methods"].get(method, {}) for part in parts]
        texts = [f"{own['score']:.1f}" if "score" in own else "" for own in found]
        _extend(lines, texts, metric("score"))
    headings = ["editor", "schedule", *methods]
    return Grid("Score by editor and method", headings, 2, [lines], "Bold: the best of a column.")


def _extend(lines: list[list[Cell]], texts: Sequence[str], measure: Metric | None) -> None:
    """Add a column to the lines; the best of its values are marked if it is of a metric."""
    values = [float(text) for text in texts if text]
    best = None
    if measure is not None and values:
        best = min(values) if measure.direction == "lower" else max(values)
    for line, text in zip(lines, texts, strict=True):
        line.append(Cell(text, best=bool(text) and best is not None and float(text) == best))
