"""A command's progress: the current stage, and the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Running", "Schedule", "duration"]

#: Typical durations of stages in seconds, for 32 edits of smollm2-135m on two cores. Only their
#: ratios matter, to estimate future stages; running ones are timed.
_WEIGHTS = {
    "Downloading": 20.0,
    "Loading the model": 2.0,
    "Collecting second moments": 100.0,
    "Optimising targets": 60.0,
    "Measuring keys": 2.0,
    "Scoring": 15.0,
    "Generating": 60.0,
    "Perplexity": 10.0,
    "Fine-tuning": 30.0,
}
_OTHER = 10.0


@dataclass
class Running:
    """A stage that has begun.

    Attributes:
        title: its name.
        unit: what it counts.
        total: how many; ``None`` if unknown.
        done: how many are finished, in an earlier run or in this one.
        skipped: how many an earlier run finished.
        began: when, on the monotonic clock.
        limit: the most seconds it takes, for a stage that waits and has no rate.
        number: its position among the stages of the command, from 1; ``None`` outside a plan.
    """

    title: str
    unit: str
    total: float | None
    done: float = 0.0
    skipped: float = 0.0
    began: float = field(default_factory=time.monotonic)
    number: int | None = None
    limit: float | None = None

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float | None:
        """Units per second; ``None`` at the beginning."""
        worked = self.done - self.skipped
        return worked / self.seconds if worked > 0 and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Time to its end at the rate so far; ``None`` if unknown."""
        if self.rate is None or self.total is None or self.limit is not None:
            return None
        return max(self.total - self.done, 0.0) / self.rate


class Schedule:
    """The stages that a command goes through.

    Args:
        titles: of the stages, in order; one that recurs after another stage is listed again.
            Stages whose results are cached are skipped.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        self.titles = tuple(titles)
        self.length = len(self.titles)
        self._position = -1
        self._spent: dict[int, float] = {}

    def begin(self, title: str) -> int | None:
        """The number, from 1, of a stage that begins; ``None`` if it is not planned."""
        here = self._position
        if here >= 0 and self.titles[here] == title:
            return here + 1
        for position in range(here + 1, len(self.titles)):
            if self.titles[position] == title:
                self._position = position
                return position + 1
        return None

    def end(self, stage: Running) -> None:
        """Record how long a stage took."""
        if stage.number is not None:
            index = stage.number - 1
            self._spent[index] = self._spent.get(index, 0.0) + stage.seconds

    def seconds_left(self, stage: Running) -> float | None:
        """Time to the end of the last stage; ``None`` if it can't be estimated yet.

        The running stage is extrapolated. For those after it, typical times are scaled by how much
        slower than typical the work has been so far.
        """
        running = stage.seconds_left
        if running is None or stage.number is None:
            return running
        here = stage.number - 1
        later = sum(map(_weight, self.titles[here + 1 :]))
        typical = sum(_weight(self.titles[index]) for index in self._spent if index != here)
        spent = sum(seconds for index, seconds in self._spent.items() if index != here)
        typical += _weight(stage.title)
        return running + later * (spent + stage.seconds + running) / typical


def _weight(title: str) -> float:
    return _WEIGHTS.get(title, _OTHER)


def duration(seconds: float) -> str:
    """A human-readable duration: ``40 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
