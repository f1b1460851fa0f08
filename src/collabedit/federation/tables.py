"""A federation's rounds as text and tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from collabedit.federation.folder import Report, RoundFolder, SharedEdits
from collabedit.messages import Hits
from collabedit.messages.evaluation import Kind
from collabedit.reporting.table import Column, Row, Table

__all__ = ["KINDS", "report_lines", "rounds_table", "shares"]

#: The kinds of prompts that are counted.
KINDS: tuple[Kind, ...] = ("rewrite", "paraphrase", "neighborhood")


def report_lines(folder: RoundFolder, report: Report) -> Iterator[str]:
    """The outcome of a round, in a few lines."""
    why = f": {report.reason}" if report.reason else ""
    yield f"{folder.path}: {report.status}{why}"
    if report.parties:
        yield f"  {report.edits} edits of {', '.join(report.parties)}; {report.seconds:.0f} s"
    if report.shared is not None:
        yield from _shared_lines(report.shared)
    for party, reason in report.left_out.items():
        yield f"  without {party}: {reason}"
    for kind, hits in report.hits.items():
        yield f"  {kind} prompts: {hits.before} of {hits.of} before, {hits.after} after"
    for party, vote in report.votes.items():
        yield f"  {party} {folder.config.vote_by.words(vote)}"
    if report.status == "accepted":
        yield f"  the delta: {folder.path / 'delta.safetensors'}"


def _shared_lines(shared: SharedEdits) -> Iterator[str]:
    yield (
        f"  shared questions: {shared.overlaps} overlap, {shared.conflicts} conflict; settled by "
        f"'{shared.policy.value}'"
    )
    for party, kept in shared.kept.items():
        if kept < shared.edits[party]:
            yield f"  {party} keeps {kept} of {shared.edits[party]} edits"


def rounds_table(rounds: Path) -> Table:
    """A row for each round in a folder."""
    words = ("schedule", "status", "parties")
    columns = [
        Column.name("round"),
        *map(Column.words, words),
        Column.number("edits"),
        *map(Column.words, KINDS),
        Column.number("sent / received"),
        Column.number("seconds", decimals=0),
    ]
    return Table.of(str(rounds), columns, [_row(folder) for folder in RoundFolder.all_in(rounds)])


def _row(folder: RoundFolder) -> Row:
    report = folder.report
    name = folder.path.name
    if report is None:
        schedule = folder.config.schedule.value
        return {"round": name, "schedule": schedule, "status": "unfinished"}
    return {
        "round": name,
        "schedule": report.schedule,
        "status": report.status,
        "parties": ", ".join(report.parties),
        "edits": report.edits,
        **shares(report),
        "sent / received": f"{report.sent / 1e6:.1f} / {report.received / 1e6:.1f} MB",
        "seconds": report.seconds,
    }


def shares(report: Report) -> dict[str, str]:
    """By kind of prompt, how many gave the expected answer, before and after."""
    return {kind: _share(report.hits.get(kind)) for kind in KINDS}


def _share(hits: Hits | None) -> str:
    return "" if hits is None or not hits.of else f"{hits.before} → {hits.after} of {hits.of}"
