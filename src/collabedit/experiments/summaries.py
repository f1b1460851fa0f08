"""Reading finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collabedit.errors import InputError
from collabedit.files import read_json

__all__ = ["load_summary"]


def load_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        InputError: when the folder is not a run, or the run is not finished.
    """
    path = folder / "summary.json"
    if path.is_file():
        summary: dict[str, Any] = read_json(path, "summary")
        return summary
    if (folder / "params.json").is_file():
        raise InputError(f"{folder}: the run is not finished; run its command again to continue it")
    raise InputError(f"{folder}: not a run; give a folder such as results/MEMIT/run_000")
