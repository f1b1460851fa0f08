"""Runs a verb of ``collabedit stats``."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from collabedit.cli import stats

__all__ = ["stats_command"]


def stats_command(*arguments: object) -> Result:
    return CliRunner().invoke(stats.app, [str(argument) for argument in arguments])
