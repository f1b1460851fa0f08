"""The table model: built once, rendered for the terminal, as Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Literal

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table as RichTable
from rich.text import Text

from collabedit.evaluation import Metric
from collabedit.evaluation.metrics import Direction

__all__ = ["Cell", "Column", "Row", "Section", "Table", "Value", "console", "section", "to_csv"]

Value = str | int | float | None

#: Values by the columns' keys; absent ones stay blank.
Row = Mapping[str, Value]

_WIDTH_IN_FILES = 160


def console() -> Console:
    """The console for tables: standard output; in files, wide enough for everything."""
    out = Console()
    return out if out.is_terminal else Console(width=max(_WIDTH_IN_FILES, out.width))


@dataclass(frozen=True)
class Column:
    """A column's content and its presentation.

    Attributes:
        key: its name in rows and in CSV.
        heading: its heading.
        unit: unit of its values.
        decimals: decimals of its numbers; ``None`` shows as many as a number needs.
        scientific: whether numbers have an exponent.
        definition: one line, shown when hovering over the heading.
        direction: which values are better.
        is_name: names the row instead of describing it.
        once: a name shared by consecutive rows of a section is written once.
        is_text: contains words, which may be wrapped.
    """

    key: str
    heading: str
    unit: str = ""
    decimals: int | None = None
    scientific: bool = False
    definition: str = ""
    direction: Direction = "neither"
    is_name: bool = False
    once: bool = False
    is_text: bool = False

    @classmethod
    def words(cls, key: str) -> Column:
        """A column of words, under its key."""
        return cls(key, key, is_text=True)

    @classmethod
    def name(cls, key: str, *, once: bool = False) -> Column:
        """A column of names, under its key."""
        return cls(key, key, is_name=True, once=once)

    @classmethod
    def number(cls, key: str, decimals: int | None = None) -> Column:
        """A column of numbers, under its key."""
        return cls(key, key, decimals=decimals)

    @classmethod
    def of(cls, metric: Metric) -> Column:
        """The column of a registered metric."""
        return cls(
            metric.key,
            metric.heading,
            unit=metric.unit,
            decimals=metric.decimals,
            scientific=metric.scientific,
            definition=metric.definition,
            direction=metric.direction,
        )

    @property
    def justify(self) -> Literal["left", "right"]:
        """Names are aligned left, numbers right."""
        return "left" if self.is_name or self.is_text else "right"

    @property
    def help(self) -> str:
        """The definition with the unit."""
        return f"{self.definition} ({self.unit})" if self.unit else self.definition

    def text(self, value: Value) -> str:
        """A value as the column shows it."""
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        decimals = "" if self.decimals is None else f".{self.decimals}"
        kind = "e" if self.scientific else "g" if self.decimals is None else "f"
        return f"{value:{decimals}{kind}}"


@dataclass(frozen=True)
class Cell:
    """A value, and whether it is the best of those compared."""

    value: Value
    best: bool = False


#: Group of rows of cells.
Section = Sequence[Sequence[Cell]]


def section(
    columns: Sequence[Column], rows: Sequence[Row], compared: Collection[str] = ()
) -> Section:
    """Rows that belong together.

    Args:
        columns: of the table.
        rows: their values by the keys of columns.
        compared: keys of the columns whose best values are marked, by the columns' directions.
            Values that look equal are equally good.
    """
    best = {c.key: _best(c, [row.get(c.key) for row in rows]) for c in columns if c.key in compared}
    return [
        [
            Cell(value, bool(c.text(value)) and c.text(value) == best.get(c.key))
            for c in columns
            for value in [row.get(c.key)]
        ]
        for row in rows
    ]


def _best(column: Column, values: Sequence[Value]) -> str | None:
    numbers = [value for value in values if isinstance(value, int | float) and value == value]
    if not numbers or column.direction == "neither":
        return None
    return column.text(min(numbers) if column.direction == "lower" else max(numbers))


@dataclass(frozen=True)
class Table:
    """A table before rendering.

    Attributes:
        title: text above it.
        columns: its columns, names first.
        sections: its rows, in groups.
        note: text below it.
    """

    title: str
    columns: Sequence[Column]
    sections: Sequence[Section]
    note: str = ""

    @classmethod
    def of(
        cls, title: str, columns: Sequence[Column], *sections: Sequence[Row], note: str = ""
    ) -> Table:
        """A table of rows, in groups, with no values compared."""
        return cls(title, columns, [section(columns, rows) for rows in sections], note)

    def rich(self) -> RichTable:
        """The table for the terminal."""
        table = RichTable(
            title=escape_markup(self.title) or None,
            title_justify="left",
            caption=escape_markup(self.note) or None,
            caption_justify="left",
        )
        for column in self.columns:
            table.add_column(
                escape_markup(column.heading),
                justify=column.justify,
                overflow="fold",  # never cut off a number
                no_wrap=column.is_name,
            )
        for rows in self.sections:
            for row, texts in zip(rows, self._texts(rows), strict=True):
                bold = ["bold" if cell.best else "" for cell in row]
                table.add_row(*map(Text, texts, bold))
            table.add_section()
        return table

    def markdown(self) -> str:
        """The table as GitHub's Markdown."""
        headings = [_one_cell(column.heading) for column in self.columns]
        rows = [headings, ["---" if c.justify == "left" else "---:" for c in self.columns]]
        for part in self.sections:
            for row, texts in zip(part, self._texts(part), strict=True):
                cells = zip(row, map(_one_cell, texts), strict=True)
                rows.append([f"**{text}**" if cell.best else text for cell, text in cells])
        lines = [f"| {' | '.join(row)} |" for row in rows]
        note = [self.note, ""] if self.note else []
        return "\n".join([f"## {self.title}", "", *lines, "", *note])

    def csv(self) -> str:
        """All rows as CSV, under the columns' keys and with all digits."""
        rows = [[cell.value for cell in row] for rows in self.sections for row in rows]
        return _csv([[column.key for column in self.columns], *rows])

    def html(self) -> str:
        """The table as plain HTML: no style, no script, headings with definitions."""
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        bodies = [f"<tbody>\n{''.join(self._html_rows(rows))}</tbody>" for rows in self.sections]
        note = f"<figcaption>{escape(self.note)}</figcaption>\n" if self.note else ""
        head = "".join(map(_html_heading, self.columns))
        parts = [f"<table>{caption}", f"<thead>\n<tr>{head}</tr>\n</thead>", *bodies, "</table>"]
        return "<figure>\n" + "\n".join(parts) + f"\n{note}</figure>\n"

    def _texts(self, rows: Section) -> Iterator[list[str]]:
        """The texts of each row; a name written once is blank from the second row on."""
        above: list[str] | None = None
        for row in rows:
            texts = [c.text(cell.value) for c, cell in zip(self.columns, row, strict=True)]
            repeated = [text == old for text, old in zip(texts, above or texts, strict=True)]
            yield [
                "" if above is not None and c.once and same else text
                for c, text, same in zip(self.columns, texts, repeated, strict=True)
            ]
            above = texts

    def _html_rows(self, rows: Section) -> Iterator[str]:
        """The rows of a section; a name written once spans its rows."""
        spans = [
            _spans(column, [row[n].value for row in rows]) for n, column in enumerate(self.columns)
        ]
        for number, row in enumerate(rows):
            cells = zip(self.columns, row, (own[number] for own in spans), strict=True)
            yield f"<tr>{''.join(_html_cell(*parts) for parts in cells if parts[2])}</tr>\n"


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV, with a column for every key that one of them has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = [Column(key, key) for key in keys]
    return Table("", columns, [section(columns, rows)]).csv()


def _csv(rows: Iterable[Sequence[Value]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _one_cell(text: str) -> str:
    """Text escaped for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def _spans(column: Column, values: Sequence[Value]) -> list[int]:
    """The rowspan of each cell of a column; 0 for cells that are spanned."""
    if not column.once:
        return [1] * len(values)
    counts = [len(list(group)) for _, group in groupby(values)]
    return [span for count in counts for span in (count, *[0] * (count - 1))]


def _html_heading(column: Column) -> str:
    title = f' title="{escape(column.help)}"' if column.help else ""
    words = ' class="words"' if column.justify == "left" else ""
    return f'<th scope="col"{words}{title}>{escape(column.heading)}</th>'


def _html_cell(column: Column, cell: Cell, rows: int) -> str:
    text = escape(column.text(cell.value))
    span = f' rowspan="{rows}"' if rows > 1 else ""
    if column.is_name and text:
        return f'<th scope="{"rowgroup" if span else "row"}"{span}>{text}</th>'
    words = ' class="words"' if column.is_text else ""
    return f"<td{words}{span}>{f'<strong>{text}</strong>' if cell.best else text}</td>"
