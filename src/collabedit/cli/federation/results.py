"""``collabedit federation coordinator results``: outcomes of the rounds."""

from __future__ import annotations

from pathlib import Path

from collabedit.cli.federation.options import RoundsOption


def results(out: RoundsOption = Path("rounds")) -> None:
    """Show all rounds in a folder: who took part, the parties' counts, bytes and times."""
    from collabedit.errors import InputError
    from collabedit.federation.folder import RoundFolder
    from collabedit.federation.tables import report_lines, rounds_table
    from collabedit.reporting.tables import console

    folders = RoundFolder.all_in(out)
    if not folders:
        raise InputError(f"{out}: contains no rounds; give the --out of 'coordinator run'")
    console().print(rounds_table(out).rich())
    for folder in folders:
        if (report := folder.report) is not None:
            print("\n".join(report_lines(folder, report)))
