"""``python -m collabedit`` is the command line."""

from __future__ import annotations

import subprocess
import sys

import collabedit


def test_the_module_runs_the_command_line() -> None:
    command = [sys.executable, "-m", "collabedit", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"collabedit {collabedit.__version__}\n"
