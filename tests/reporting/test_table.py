"""The table model: every drawing has the same cells."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

from collabedit.reporting.table import Column, Table, section, to_csv

NAME = Column.name("editor", once=True)
NORM = Column("norm", "|D|", decimals=2, direction="lower", definition="size <of> D", unit="%")
TABLE = Table(
    "A & B",
    [NAME, NORM],
    [
        section([NAME, NORM], [{"editor": "x|y", "norm": 1.004}, {"editor": "x|y", "norm": 1.0}]),
        section([NAME, NORM], [{"editor": "z", "norm": 2.5}, {"editor": "w"}], compared=["norm"]),
    ],
    "note",
)


class _Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += [data.strip()] if data.strip() else []


def test_html_is_balanced_escaped_and_spans_names() -> None:
    parser = _Balanced()
    parser.feed(TABLE.html())
    assert not parser.open
    assert parser.text == [
        *("A & B", "editor", "|D|", "x|y", "1.00", "1.00", "z", "2.50", "w", "note")
    ]
    assert '<th scope="rowgroup" rowspan="2">x|y</th>' in TABLE.html()
    assert 'title="size &lt;of&gt; D (%)"' in TABLE.html()
    assert TABLE.html().count("<strong>") == 1


def test_markdown_keeps_its_columns() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[2] == "| editor | \\|D\\| |"
    assert lines[4:8] == ["| x\\|y | 1.00 |", "|  | 1.00 |", "| z | **2.50** |", "| w |  |"]


def test_csv_has_all_digits_and_names() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [
        ["editor", "norm"],
        ["x|y", "1.004"],
        ["x|y", "1.0"],
        ["z", "2.5"],
        ["w", ""],
    ]
    assert to_csv([{"a": 1}, {"b": "x"}]) == "a,b\n1,\n,x\n"
