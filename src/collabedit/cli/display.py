"""Sets up what a command shows and logs while it runs."""

from __future__ import annotations

import logging
from pathlib import Path

import typer

__all__ = ["start_display"]


class _AboveTheBar(logging.Handler):
    """Prints log records without breaking progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; with ``--quiet`` only warnings arrive here."""
        from collabedit.progress import say

        say(self.format(record), always=True)


def start_display(
    context: typer.Context, *, quiet: bool, verbose: bool, log_json: Path | None
) -> None:
    """Set up display and logging as the options ask, until the command ends.

    Args:
        context: the command's context.
        quiet: show neither progress nor notices; warnings and errors stay.
        verbose: show more.
        log_json: the file for the events.

    Raises:
        InputError: when the log cannot be written.
    """
    from collabedit._version import __version__
    from collabedit.progress import EventLog, plan, show_progress
    from collabedit.progress.plans import COMMANDS

    handler = _AboveTheBar()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    level = logging.INFO if verbose and not quiet else logging.WARNING
    logging.basicConfig(level=level, handlers=[handler])
    log = None if log_json is None else EventLog(log_json)
    context.with_resource(show_progress(quiet=quiet, verbose=verbose, log=log))
    command = context.invoked_subcommand or ""
    if command in COMMANDS:
        context.with_resource(plan(COMMANDS[command]))
    if log is not None:
        context.meta["log"] = log
        log.write("start", command=command, collabedit=__version__)
