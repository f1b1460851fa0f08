"""From a file's text to its records as decoded objects, each with its location."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collabedit.errors import InputError, shown
from collabedit.files import RepeatedNames, decode_json, decode_text, read_bounded, read_text
from collabedit.requests.formats import recognise

__all__ = ["STANDARD_INPUT", "Located", "read_objects", "source_name"]

#: As a path, it means standard input.
STANDARD_INPUT = "-"

_TABLES = (".csv", ".tsv")
_ID_COLUMNS = ("case_id", "case_index")


@dataclass(frozen=True)
class Located:
    """One record before it is parsed.

    Attributes:
        value: the decoded object.
        where: its location, such as ``record 3`` or ``line 5, record 3``.
        fault: why it could not be decoded, if it could not.
    """

    value: Any
    where: str
    fault: str | None = None


def source_name(path: str | os.PathLike[str]) -> str:
    """What messages call a file."""
    return "standard input" if os.fspath(path) == STANDARD_INPUT else os.fspath(path)


def read_objects(path: str | os.PathLike[str]) -> list[Located]:
    """Read the records of a JSON, JSON Lines, CSV or TSV file, or of standard input.

    The content decides which of them it is; only tables may need their suffix.

    Raises:
        InputError: when the file cannot be read, or is none of these.
    """
    source = source_name(path)
    if os.fspath(path) == STANDARD_INPUT:
        text = decode_text(read_bounded(sys.stdin.buffer, source), source)
    else:
        text = read_text(path, "requests file")
    content = text.lstrip()
    if Path(path).suffix.lower() in _TABLES or _has_header(content):
        return list(_rows(text, source))
    if content.startswith("["):
        return _flattened(_list(text, source))
    return _unwrapped(_objects(text, source))


def _flattened(items: Sequence[Located]) -> list[Located]:
    """The records of lists within a list, as if each list were on its own line."""
    if not items or not all(isinstance(item.value, list) and item.value for item in items):
        return list(items)
    inner = [(list_, value) for list_, item in enumerate(items) for value in item.value]
    return [
        Located(value, f"list {list_}, record {index}")
        for index, (list_, value) in enumerate(inner)
    ]


def _unwrapped(items: list[Located]) -> list[Located]:
    """The records inside a single object that is not one: its only list of them, or its values."""
    if len(items) != 1 or not isinstance(items[0].value, dict):
        return items
    item = items[0].value
    if isinstance(item, RepeatedNames) or recognise(item) is not None:
        return items
    lists = [name for name, value in item.items() if _are_records(value)]
    if len(lists) == 1:
        records = enumerate(item[lists[0]])
        return [Located(value, f"{shown(lists[0])}, record {index}") for index, value in records]
    if _are_records(list(item.values())):
        return [Located(value, f"record {shown(name)}") for name, value in item.items()]
    return items


def _are_records(values: Any) -> bool:
    """Whether it is a list that begins with a record of some form."""
    return (
        isinstance(values, list)
        and bool(values)
        and isinstance(values[0], dict)
        and recognise(values[0]) is not None
    )


def _list(text: str, source: str) -> list[Located]:
    """One list of records, or a list on each line."""
    try:
        value = decode_json(text, source)
    except InputError:
        lines = _lines(text)
        if len(lines) < 2 or lines[0].fault is not None:
            raise
        return lines
    return [Located(item, f"record {index}") for index, item in enumerate(value)]


def _objects(text: str, source: str) -> list[Located]:
    """One record per line, or a single record over several lines."""
    lines = _lines(text)
    if len(lines) > 1 and lines[0].fault is not None:
        try:
            return [Located(decode_json(text, source), "record 0")]
        except InputError:
            if all(line.fault is not None for line in lines):
                _check_beginning(text, source)
                raise
    if len(lines) == 1 and lines[0].fault is not None:
        _check_beginning(text, source)
    return lines


def _check_beginning(text: str, source: str) -> None:
    """Check that text which is not valid JSON at least begins like JSON."""
    beginning = text.strip().partition("\n")[0]
    if beginning[:1] not in ("{", "["):
        raise InputError(
            f"{source}: begins with {shown(beginning[:30])}, which is neither JSON nor the header "
            "of a table; give JSON, JSON Lines, or columns such as prompt,subject,target"
        )


def _lines(text: str) -> list[Located]:
    """JSON Lines: a record, or a list of records, on each line that is not blank."""
    found: list[Located] = []
    # Not splitlines: JSON texts may hold U+2028 and other separators as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = decode_json(line, f"line {number}")
        except InputError as error:
            found.append(Located(None, f"line {number}", str(error)))
            continue
        for item in value if isinstance(value, list) else [value]:
            found.append(Located(item, f"line {number}, record {len(found)}"))
    return found


def _has_header(content: str) -> bool:
    """Whether text without a table's suffix begins with the header of a table of requests."""
    header = content.partition("\n")[0]
    return content[:1] not in "[{" and "subject" in re.split("[,;|\t\r]", header.lower())


def _rows(text: str, source: str) -> Iterator[Located]:
    """The rows of a table with a header; empty cells count as absent."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t|", key=header.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = _names(next(table, []))
        if names and names[0].startswith("sep="):  # a line that names the delimiter for Excel
            names = _names(next(table, []))
        _check_header(names, source)
        line, index = table.line_num + 1, 0
        for cells in table:
            where, line = f"line {line}, record {index}", table.line_num + 1
            if any(cell.strip() for cell in cells):
                yield _row(names, cells, where)
                index += 1
    except csv.Error as error:
        raise InputError(
            f"{source}, line {table.line_num}: not a table ({error}); check quotes and commas"
        ) from None


def _names(cells: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in cells]


def _check_header(names: Sequence[str], source: str) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{source}: two columns are called {shown(twice)}; rename one")
    if any(names) and not {"prompt", "subject", "concept"}.intersection(names):
        raise InputError(
            f"{source}: no column is called 'subject'; name the columns in the first row, such as "
            "prompt,subject,target"
        )


def _row(names: Sequence[str], cells: Sequence[str], where: str) -> Located:
    if len(cells) > len(names):
        fault = f"{where}: {len(cells)} cells under {len(names)} columns; put quotes around commas"
        return Located(None, where, fault)
    pairs = zip(names, cells, strict=False)
    return Located({n: _cell(n, cell) for n, cell in pairs if n and cell.strip()}, where)


def _cell(name: str, cell: str) -> Any:
    """A cell's value: a JSON list of texts, a whole number in a column of ids, or the text."""
    if name in _ID_COLUMNS and re.fullmatch(r"\s*-?\d{1,18}\s*", cell, re.ASCII):
        return int(cell)
    if cell.lstrip().startswith("["):
        try:
            value = decode_json(cell, name)
        except InputError:
            return cell
        if isinstance(value, list):
            return value
    return cell
