"""A federation's rounds as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from collabedit.federation.folder import Report, RoundFolder
from collabedit.messages import Hits

__all__ = ["report_lines", "rounds_table"]


def report_lines(folder: RoundFolder, report: Report) -> Iterator[str]:
    """What became of a round, in a few lines."""
    why = f": {report.reason}" if report.reason else ""
    yield f"{folder.path}: {report.status}{why}"
    if report.parties:
        yield f"  {report.edits} edits of {', '.join(report.parties)}; {report.seconds:.0f} s"
    for party, reason in report.left_out.items():
        yield f"  without {party}: {reason}"
    for kind, hits in report.hits.items():
        yield f"  {kind} prompts: {hits.before} of {hits.of} before, {hits.after} after"
    for party, vote in report.votes.items():
        yield f"  {party} {folder.config.vote_by.words(vote)}"
    if report.status == "accepted":
        yield f"  the delta: {folder.path / 'delta.safetensors'}"


def rounds_table(rounds: Path) -> Table:
    """A row for each round of a folder."""
    table = Table(title=str(rounds), title_justify="left")
    for heading in ("round", "schedule", "status", "parties", "edits", "rewrite", "paraphrase"):
        table.add_column(heading)
    table.add_column("neighborhood")
    table.add_column("sent / received", justify="right")
    table.add_column("seconds", justify="right")
    for folder in RoundFolder.all_in(rounds):
        table.add_row(*_row(folder))
    return table


def _row(folder: RoundFolder) -> Sequence[str]:
    report = folder.report
    name = folder.path.name
    if report is None:
        return (name, folder.config.schedule.value, "unfinished")
    shares = [_share(report.hits.get(kind)) for kind in ("rewrite", "paraphrase", "neighborhood")]
    traffic = f"{report.sent / 1e6:.1f} / {report.received / 1e6:.1f} MB"
    parties = ", ".join(report.parties)
    counts = (report.schedule, report.status, parties, str(report.edits))
    return (name, *counts, *shares, traffic, f"{report.seconds:.0f}")


def _share(hits: Hits | None) -> str:
    return "" if hits is None or not hits.of else f"{hits.before} → {hits.after} of {hits.of}"
