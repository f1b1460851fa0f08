"""``collabedit requests``: what a file of edit requests says, before anything is edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.options import SkipBadOption

if TYPE_CHECKING:
    from collabedit.requests import Record, RequestFile

app = typer.Typer(no_args_is_help=True, help="Inspect files of edit requests.")


@app.callback()
def _group() -> None:
    """Keep ``check`` a command of its own while it is the only one."""


@app.command()
def check(
    file: Annotated[
        str,
        typer.Argument(
            help="JSON, JSON Lines, CSV or TSV in any form of the field; - reads stdin."
        ),
    ],
    skip_bad: SkipBadOption = False,
    show: Annotated[int, typer.Option(min=0, help="How many records to show.")] = 5,
) -> None:
    """Show what is understood of a file of edit requests, and all that is wrong with it.

    Fails when a request cannot be used, unless --skip-bad is given.
    """
    from collabedit.errors import RequestError
    from collabedit.reporting.tables import console
    from collabedit.requests import read_requests

    found = read_requests(file)
    print(_summary(found))
    if found.records and show:
        console().print(_table(found.records[:show]))
    if len(found.records) > show > 0:
        print(f"and {len(found.records) - show:,} more")
    for warning in found.warnings:
        print(f"note: {warning}")
    problem = found.problem(skip_bad=skip_bad)
    if problem is not None:
        raise RequestError(problem)
    if found.faults:
        print(found.complaint)


def _summary(found: RequestFile) -> str:
    forms = ", ".join(f"{count:,} {name}" for name, count in found.formats.items())
    good = f"{len(found.records):,} edits" + (f" ({forms})" if forms else "")
    return f"{found.source}: {good}, {len(found.faults):,} bad"


def _table(records: tuple[Record, ...]) -> object:
    from rich.table import Table

    counts = ("paraphrases", "neighbours", "portability", "locality")
    table = Table("case", "prompt", "subject", "target", *counts)
    for record in records:
        request = record.request
        table.add_row(
            str(record.case_id),
            _cell(request.prompt),
            _cell(request.subject),
            _cell(request.target_new),
            str(len(record.paraphrase_prompts)),
            str(len(record.neighborhood_prompts)),
            str(len(record.portability)),
            str(len(record.locality)),
        )
    return table


def _cell(text: str) -> str:
    """A text on one line, short, with nothing in it that the terminal could take for markup."""
    from rich.markup import escape

    line = " ".join(text.split())
    return escape(line if len(line) <= 60 else f"{line[:59]}…")
