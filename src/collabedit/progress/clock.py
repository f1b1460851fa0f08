"""A command's progress: the current stage, and the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Running", "Schedule", "duration"]

#: Relative durations of stages, in seconds: 32 edits of smollm2-135m on two cores. They
#: only serve to estimate future stages; running ones are timed.
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
        total: how many; ``None`` where that is not known.
        done: how many are finished, in an earlier run or in this one.
        skipped: how many an earlier run finished.
        began: when, on the monotonic clock.
        limit: seconds that it takes at most, of one that waits and has no rate.
        number: its place among the stages of the command, from 1; ``None`` outside of a plan.
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
        """Units a second; ``None`` at the beginning."""
        worked = self.done - self.skipped
        return worked / self.seconds if worked > 0 and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Time to its end at the rate so far; ``None`` where nothing is known of it."""
        if self.rate is None or self.total is None or self.limit is not None:
            return None
        return max(self.total - self.done, 0.0) / self.rate


class Schedule:
    """The stages that a command goes through.

    Args:
        titles: of the stages, in order; one that repeats is listed as often as it begins again
            after another one. Stages whose results are cached are passed over.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        self.titles = tuple(titles)
        self.length = len(self.titles)
        self._position = -1
        self._spent: dict[int, float] = {}

    def begin(self, title: str) -> int | None:
        """The number, from 1, of a stage that begins; ``None`` for one that is not planned."""
        here = self._position
        if here >= 0 and self.titles[here] == title:
            return here + 1
        for position in range(here + 1, len(self.titles)):
            if self.titles[position] == title:
                self._position = position
                return position + 1
        return None

    def end(self, stage: Running) -> None:
        """Note how long a stage took."""
        if stage.number is not None:
            index = stage.number - 1
            self._spent[index] = self._spent.get(index, 0.0) + stage.seconds

    def seconds_left(self, stage: Running) -> float | None:
        """Time to the end of the last stage; ``None`` where it cannot be estimated yet.

        The stage that runs is extrapolated. For those after it, typical times are scaled by how
        much longer than typical the work so far took.
        """
        own = stage.seconds_left
        if own is None or stage.number is None:
            return own
        here = stage.number - 1
        later = sum(map(_weight, self.titles[here + 1 :]))
        typical = sum(_weight(self.titles[index]) for index in self._spent if index != here)
        spent = sum(seconds for index, seconds in self._spent.items() if index != here)
        typical += _weight(stage.title)
        return own + later * (spent + stage.seconds + own) / typical


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
