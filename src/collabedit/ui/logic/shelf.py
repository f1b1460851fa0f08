"""Finished runs below a folder, and reports on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from collabedit.errors import CollabEditError, InputError

__all__ = ["Shelf", "ShelfRun"]

#: How deep below the folder to look for runs: a comparison of editors keeps its runs in
#: ``editors/run_000/MEMIT/one-shot``.
_DEPTH = 4
_SUMMARY = "summary.json"


@dataclass(frozen=True)
class ShelfRun:
    """A finished run.

    Attributes:
        name: its folder, relative to the shelf's.
        what: study, model and editor.
        when: when its summary was written.
        scores: the Score of each method that has one.
        fault: why it can't be read; empty if it can.
    """

    name: str
    what: str = ""
    when: str = ""
    scores: tuple[tuple[str, float], ...] = ()
    fault: str = ""


class Shelf:
    """The model behind the Reports tab.

    Args:
        root: the folder of results.
    """

    def __init__(self, root: str | Path = "results") -> None:
        self.root = Path(root)

    def look_in(self, root: str) -> None:
        """Switch to another folder.

        Raises:
            InputError: when it is not a folder.
        """
        path = Path(root.strip() or ".").expanduser()
        if not path.is_dir():
            raise InputError(f"there is no folder {root!r}")
        self.root = path

    def runs(self) -> list[ShelfRun]:
        """The finished runs, newest first."""
        summaries: set[Path] = set()
        for depth in range(_DEPTH + 1):
            summaries.update(self.root.glob("*/" * depth + _SUMMARY))
        newest = sorted(summaries, key=lambda path: (-path.stat().st_mtime, path))
        return [self._run(path) for path in newest]

    def page(self, names: Sequence[str]) -> str:
        """The report on runs, several of them side by side.

        Args:
            names: names of runs, as :meth:`runs` returns them.

        Raises:
            InputError: when no run or an unknown one is named, or a result is damaged.
        """
        from collabedit.reporting.html import report_page
        from collabedit.reporting.results import RunResult

        known = {run.name for run in self.runs()}
        if not names:
            raise InputError("name a run")
        for name in names:
            if name not in known:
                raise InputError(f"there is no finished run {name!r} in {self.root}")
        results = {
            str(self.root / name): RunResult.load(self.root / name, with_cases=True)
            for name in names
        }
        return report_page(results)

    def _run(self, path: Path) -> ShelfRun:
        from collabedit.reporting.results import RunResult

        name = path.parent.relative_to(self.root).as_posix()
        written = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        try:
            result = RunResult.load(path.parent)
        except CollabEditError as error:
            return ShelfRun(name, when=written, fault=str(error))
        settings = result.settings
        words = [result.experiment, settings.get("model"), settings.get("editor")]
        scores = tuple(
            (str(row["method"]), float(score))
            for row in result.rows()
            if isinstance(score := row.get("score"), int | float) and "method" in row
        )
        return ShelfRun(name, ", ".join(str(word) for word in words if word), written, scores)
