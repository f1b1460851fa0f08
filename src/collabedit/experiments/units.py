"""Parts of a study that workers compute, with the same results as here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from collabedit.experiments.runs import Run
from collabedit.experiments.study import Loaded
from collabedit.files import atomic_path
from collabedit.reporting.results import Costs
from collabedit.settings import CommonSettings
from collabedit.workers import resident_model

__all__ = ["Unit", "do_on_workers", "resident"]

_COSTS = "costs.json"
_SUMMARY = "summary.json"


@dataclass(frozen=True)
class Unit:
    """One worker's task.

    Attributes:
        function: fills a run's folder; importable, and called as ``function(run, *arguments)``.
        arguments: its further arguments.
        run: the run whose folder is filled.
        begun: patterns of the run's files that are sent to the worker.
    """

    function: Callable[..., object]
    arguments: tuple[Any, ...]
    run: Run
    begun: tuple[str, ...] = ("**/*",)


def do_on_workers(executor: Executor, units: Sequence[Unit]) -> None:
    """Run units on workers, and put their files where they would be if computed here.

    Args:
        executor: the workers.
        units: independent of each other.
    """
    futures = [
        executor.submit(_made, unit.function, unit.arguments, _begun(unit)) for unit in units
    ]
    for unit, future in zip(units, futures, strict=True):
        _keep(unit.run.folder, future.result())


@lru_cache(maxsize=1)
def resident(settings: CommonSettings) -> Loaded:
    """What a worker keeps loaded between the units of a study."""
    return Loaded.of(settings, model=resident_model(settings.source))


def _made(
    function: Callable[..., object], arguments: tuple[Any, ...], begun: Mapping[str, bytes]
) -> dict[str, bytes]:
    """A worker's unit: the files that a function creates or changes, by relative path."""
    with TemporaryDirectory(prefix="collabedit-") as scratch:
        folder = Path(scratch)
        _keep(folder, begun)
        function(Run(folder, continued=False), *arguments)
        made = _contents(folder, ("**/*",))
    return {name: content for name, content in made.items() if begun.get(name) != content}


def _begun(unit: Unit) -> dict[str, bytes]:
    return _contents(unit.run.folder, unit.begun)


def _contents(folder: Path, patterns: Sequence[str]) -> dict[str, bytes]:
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def _keep(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files; the summary, which marks a run as finished, comes last."""
    known = Costs.load(folder).stages
    for name in sorted(files, key=lambda name: (name == _SUMMARY, name)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(files[name])
        if name == _COSTS:
            Costs(stages={**known, **Costs.load(folder).stages}).save(folder)
