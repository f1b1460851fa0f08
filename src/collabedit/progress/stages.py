"""The stages of a command: announcing, starting, counting and ending them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from collabedit.progress.clock import Running, Schedule, duration
from collabedit.progress.displays import Display, Lines, Nothing, Terminal, amount
from collabedit.progress.events import EventLog

__all__ = ["Progress", "interrupted_stage", "plan", "progress", "say", "show_progress"]

#: Least number of seconds between two log events of one stage.
_LOG_SECONDS = 1.0


def default_display() -> Display:
    """A bar if standard error is a terminal, lines elsewhere."""
    return Terminal() if sys.stderr.isatty() else Lines()


class _Reporter:
    """This process's display, log and current stage."""

    def __init__(self) -> None:
        self.display: Display | None = None
        self.log: EventLog | None = None
        self.verbose = False
        self.schedule = Schedule(())
        self.running: Running | None = None
        self.interrupted: str | None = None

    def shown(self) -> Display:
        """The display; by default, a bar if standard error is a terminal, lines elsewhere."""
        if self.display is None:
            self.display = default_display()
        return self.display

    def event(self, kind: str, stage: Running, **values: float | None) -> None:
        if self.log is not None:
            self.log.write(
                kind,
                stage=stage.title,
                number=stage.number,
                of=self.schedule.length or None,
                unit=stage.unit or None,
                total=stage.total,
                **values,
            )


_reporter = _Reporter()


class Progress:
    """A handle to report finished units of work to."""

    def advance(self, amount: float = 1) -> None:
        """Report ``amount`` further units as done."""

    def skip(self, amount: float) -> None:
        """Report ``amount`` units that an earlier run finished; they don't count for the rate."""


class _Shown(Progress):
    """Reports to the display and the log."""

    def __init__(self, stage: Running, display: Display) -> None:
        self._stage, self._display = stage, display
        self._logged = 0.0

    def skip(self, amount: float) -> None:
        self._stage.skipped += amount
        self._stage.done += amount

    def advance(self, amount: float = 1) -> None:
        self._stage.done += amount
        left = _reporter.schedule.seconds_left(self._stage)
        self._display.update(self._stage, left)
        if _reporter.log is not None and time.monotonic() >= self._logged + _LOG_SECONDS:
            self._logged = time.monotonic()
            _reporter.event(
                "progress",
                self._stage,
                done=self._stage.done,
                rate=self._stage.rate,
                seconds_left=left,
            )


@contextmanager
def progress(
    title: str, total: float | None = None, unit: str = "", *, limit: float | None = None
) -> Iterator[Progress]:
    """Show a stage of long work, with its rate and the time left.

    Args:
        title: its name, which must be a constant, since it is written to the log.
        total: units of work; ``None`` if unknown.
        unit: what is counted.
        limit: the most seconds it takes, if it waits for others and has no rate.
    """
    if _reporter.running is not None:  # part of another stage
        yield Progress()
        return
    number = _reporter.schedule.begin(title)
    stage = Running(title, unit, total, number=number, limit=limit)
    reporter, display = _reporter, _reporter.shown()
    reporter.running = stage
    display.begin(stage, _reporter.schedule.length)
    _reporter.event("begin", stage)
    try:
        yield _Shown(stage, display)
    except KeyboardInterrupt:
        _reporter.interrupted = _named(stage)
        raise
    finally:
        display.end(stage)
        _reporter.running = None
        _reporter.schedule.end(stage)
        _reporter.event("end", stage, done=stage.done, seconds=stage.seconds)
    if _reporter.verbose:
        units = f"{amount(stage.done)} {stage.unit} in " if stage.unit else ""
        say(f"{stage.title}: {units}{duration(stage.seconds)}")


@contextmanager
def plan(titles: Sequence[str]) -> Iterator[None]:
    """Announce the stages that the block goes through, so that they are counted.

    Args:
        titles: the titles passed to :func:`progress`, in order. Stages may be skipped, such as
            those with cached results; others may come in between and are not counted.
    """
    if _reporter.schedule.titles:  # part of a larger plan
        yield
        return
    _reporter.schedule = Schedule(titles)
    try:
        yield
    finally:
        _reporter.schedule = Schedule(())


def say(message: str, *, always: bool = False) -> None:
    """Print a message on standard error, above the bar if one is shown.

    Args:
        message: for the user; it is never logged.
        always: print it under ``--quiet`` as well.
    """
    display = _reporter.shown()
    (Lines() if always and isinstance(display, Nothing) else display).message(message)


def interrupted_stage() -> str | None:
    """The stage that Ctrl-C stopped, such as ``"Scoring" (stage 4 of 6)``."""
    return _reporter.interrupted


def _named(stage: Running) -> str:
    of = "" if stage.number is None else f" (stage {stage.number} of {_reporter.schedule.length})"
    return f'"{stage.title}"{of}'


@contextmanager
def show_progress(
    *,
    quiet: bool = False,
    verbose: bool = False,
    log: EventLog | None = None,
    display: Display | None = None,
) -> Iterator[None]:
    """Choose what is shown and logged within the block.

    Applies to the whole process, including its threads: one block at a time.

    Args:
        quiet: show neither stages nor messages.
        verbose: also print how long each stage took.
        log: gets every event.
        display: shows stages and messages; by default a bar if standard error is a terminal, lines
            elsewhere.
    """
    global _reporter
    before, _reporter = _reporter, _Reporter()
    _reporter.display = Nothing() if quiet else display or default_display()
    _reporter.log, _reporter.verbose = log, verbose and not quiet
    try:
        yield
    finally:
        _reporter = before
