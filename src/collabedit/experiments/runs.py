"""A run's folder: its settings, the finished stages, and the results in the paper's layout.

``results/<EDITOR>/run_<NNN>/`` holds ``params.json`` (all settings, versions and hashes), one
``case_<id>.json`` per record and, when the run is finished, ``summary.json``. Each stage's outcome
is kept below ``stages/``; an interrupted run is found by its settings and continued from there.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from collabedit._version import __version__
from collabedit.files import atomic_path, read_json, write_json
from collabedit.messages import Delta, RoundState
from collabedit.reporting.results import Costs, StageCost

__all__ = ["Run", "open_run"]

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Run:
    """One run's folder.

    Attributes:
        folder: ``results/<EDITOR>/run_<NNN>``.
        continued: whether an interrupted run was found and is continued.
    """

    folder: Path
    continued: bool

    def part(self, name: str, params: Mapping[str, Any]) -> Run:
        """A run within this one, in a subfolder; finished stages are kept.

        Args:
            name: of the folder, below this run's.
            params: everything that its results depend on, as JSON values.
        """
        folder = self.folder / name
        if not (folder / "params.json").is_file():
            _write_params(folder, params)
        return Run(folder, self.continued)

    @property
    def finished(self) -> bool:
        """Whether the summary is written."""
        return (self.folder / "summary.json").is_file()

    def json_stage(self, name: str, compute: Callable[[], Value]) -> Value:
        """The JSON value of a stage: read if it is finished, otherwise computed and kept."""

        def write(path: Path, value: Value) -> None:
            write_json(path, value, indent=None)

        self._kept(name, ".json", compute, write)
        value: Value = self.read_stage(name)
        return value

    def read_stage(self, name: str) -> Any:
        """The JSON value of a finished stage."""
        return read_json(self.folder / "stages" / f"{name}.json")

    def delta_stage(self, name: str, compute: Callable[[], Delta]) -> Delta:
        """The delta of a stage: read if it is finished, otherwise computed and kept."""
        return Delta.load(self._kept(name, ".safetensors", compute, _save))

    def state_stage(self, name: str, compute: Callable[[], RoundState]) -> RoundState:
        """The state after a round: read if it is finished, otherwise computed and kept."""
        return RoundState.load(self._kept(name, ".safetensors", compute, _save))

    def _kept(
        self,
        name: str,
        suffix: str,
        compute: Callable[[], Value],
        write: Callable[[Path, Value], None],
    ) -> Path:
        """The file of a stage, created if missing.

        Its costs are written just before it appears: a run that is killed in between computes the
        stage again, and no finished stage lacks its costs.
        """
        path = self.folder / "stages" / f"{name}{suffix}"
        if path.is_file():
            return path
        logger.info("%s ...", name)
        start = time.perf_counter()
        value = compute()
        with atomic_path(path) as temporary:
            write(temporary, value)
            seconds = round(time.perf_counter() - start, 3)
            cost = StageCost(seconds=seconds, bytes=temporary.stat().st_size)
            Costs(stages={**Costs.load(self.folder).stages, name: cost}).save(self.folder)
        return path

    def write_case(self, case_id: int, value: Mapping[str, Any]) -> None:
        """Write one record's results."""
        write_json(self.folder / f"case_{case_id}.json", value)

    def params(self) -> dict[str, Any]:
        """The run's parameters, with versions and hashes."""
        return dict(read_json(self.folder / "params.json"))


def _save(path: Path, value: Delta | RoundState) -> None:
    value.save(path)


def open_run(root: Path, editor: str, params: Mapping[str, Any], *, fresh: bool = False) -> Run:
    """Continue the newest unfinished run with these parameters, or start a new one.

    Args:
        root: the results folder.
        editor: names the subfolder.
        params: everything that the results depend on, as JSON values.
        fresh: start a new run in any case.
    """
    parent = root / editor
    existing = sorted(path for path in parent.glob("run_*") if path.name[4:].isdigit())
    if not fresh:
        for folder in reversed(existing):
            if _is_unfinished(folder, params):
                return Run(folder, continued=True)
    number = int(existing[-1].name[4:]) + 1 if existing else 0
    folder = parent / f"run_{number:03d}"
    _write_params(folder, params)
    return Run(folder, continued=False)


def _write_params(folder: Path, params: Mapping[str, Any]) -> None:
    write_json(folder / "params.json", {**params, "versions": _versions()})


def _is_unfinished(folder: Path, params: Mapping[str, Any]) -> bool:
    path = folder / "params.json"
    if not path.is_file() or (folder / "summary.json").is_file():
        return False
    known = dict(read_json(path))
    versions = known.pop("versions", None)
    return known == dict(params) and versions == _versions()


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "numpy")
    return {
        "collabedit": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
