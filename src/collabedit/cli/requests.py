"""``collabedit requests``: inspect a file of edit requests before anything is edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.options import SkipBadOption

if TYPE_CHECKING:
    from collabedit.reporting.table import Table
    from collabedit.requests import Record, RequestFile

app = typer.Typer(no_args_is_help=True, help="Inspect files of edit requests.")


@app.callback()
def _group() -> None:
    """Keep ``check`` a subcommand although it is the only one."""


@app.command()
def check(
    file: Annotated[
        str,
        typer.Argument(help="JSON, JSON Lines, CSV or TSV in any common format; - reads stdin."),
    ],
    skip_bad: SkipBadOption = False,
    show: Annotated[int, typer.Option(min=0, help="How many records to show.")] = 5,
) -> None:
    """Show how a file of edit requests is understood, and everything that is wrong with it.

    Fails if any request is unusable, unless --skip-bad is given.
    """
    from collabedit.errors import RequestError
    from collabedit.reporting.table import console
    from collabedit.requests import read_requests

    content = read_requests(file)
    print(_summary(content))
    if content.records and show:
        console().print(_table(content.records[:show]).rich())
    if len(content.records) > show > 0:
        print(f"and {len(content.records) - show:,} more")
    for warning in content.warnings:
        print(f"note: {warning}")
    problem = content.problem(skip_bad=skip_bad)
    if problem is not None:
        raise RequestError(problem)
    if content.faults:
        print(content.complaint)


def _summary(content: RequestFile) -> str:
    forms = ", ".join(f"{count:,} {name}" for name, count in content.formats.items())
    good = f"{len(content.records):,} edits" + (f" ({forms})" if forms else "")
    return f"{content.source}: {good}, {len(content.faults):,} bad"


def _table(records: Sequence[Record]) -> Table:
    from collabedit.reporting.table import Column, Row, Table

    texts: list[Row] = [
        {
            "case": record.case_id,
            "prompt": _cell(record.request.prompt),
            "subject": _cell(record.request.subject),
            "target": _cell(record.request.target_new),
        }
        for record in records
    ]
    counts: dict[str, list[int]] = {
        "paraphrases": [len(record.paraphrase_prompts) for record in records],
        "neighbours": [len(record.neighborhood_prompts) for record in records],
        "portability": [len(record.portability) for record in records],
        "locality": [len(record.locality) for record in records],
    }
    given = {key: numbers for key, numbers in counts.items() if any(numbers)}
    rows: list[Row] = [
        {**row, **{key: numbers[index] for key, numbers in given.items()}}
        for index, row in enumerate(texts)
    ]
    columns = [
        Column.number("case"),
        *map(Column.words, ("prompt", "subject", "target")),
        *map(Column.number, given),
    ]
    return Table.of("", columns, rows)


def _cell(text: str) -> str:
    """A text on one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
