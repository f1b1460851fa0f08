"""Running commands in the test's own process, as the shell would."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest

from collabedit.cli import main

__all__ = ["collabedit", "fails", "status_of"]


def _run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["collabedit", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as stop:
                status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()


def collabedit(*arguments: object) -> str:
    """Run a command that must succeed; returns what it printed."""
    status, out, err = _run(*arguments)
    assert status == 0, err
    return out


def fails(*arguments: object) -> str:
    """Run a command that must fail with one clear line; returns that line."""
    status, _, err = _run(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("collabedit: ")]
    assert status == 2, err
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def status_of(*arguments: object) -> tuple[int, str]:
    """Run a command that may end either way; returns its exit status and what it printed."""
    status, out, err = _run(*arguments)
    assert "Traceback" not in err
    return status, out
