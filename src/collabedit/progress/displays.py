"""Displays of a stage: a bar on a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from collabedit.progress.clock import Running, duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Display", "Lines", "Nothing", "Terminal", "amount", "counted", "label", "remaining"]

#: Without a terminal: seconds into a stage before its first line, and the growth factor of the
#: pauses that follow.
_FIRST_LINE = 10.0
_LONGER = 1.5
_LONGEST_PAUSE = 300.0


class Display(Protocol):
    """Shows the running stage."""

    def begin(self, stage: Running, of: int) -> None:
        """Show a stage that begins, number ``stage.number`` of ``of``."""

    def update(self, stage: Running, left: float | None) -> None:
        """Show how far it is, and the seconds ``left`` to the end of all stages."""

    def end(self, stage: Running) -> None:
        """Remove it."""

    def message(self, text: str) -> None:
        """Print a message."""


def label(stage: Running, of: int) -> str:
    """``[2/5] Optimising targets``."""
    return stage.title if stage.number is None else f"[{stage.number}/{of}] {stage.title}"


def counted(stage: Running) -> str:
    """``12 of 32 edits, 3.1 edits/s``."""
    if stage.total is None:
        return ""
    rate = f", {amount(stage.rate)} {stage.unit}/s" if stage.rate and stage.limit is None else ""
    return f"{stage.done:,.0f} of {stage.total:,.0f} {stage.unit}{rate}"


def remaining(stage: Running, left: float | None) -> str:
    """``about 3 min left``; for a stage that waits, ``at most 3 min left``."""
    if stage.limit is not None:
        return f"at most {duration(max(stage.limit - stage.seconds, 0.0))} left"
    return "" if left is None else f"about {duration(left)} left"


def amount(number: float) -> str:
    """A number to about three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


class Nothing:
    """Shows no stage and no message."""

    def begin(self, stage: Running, of: int) -> None:
        """Show nothing."""

    def update(self, stage: Running, left: float | None) -> None:
        """Show nothing."""

    def end(self, stage: Running) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""


class Lines:
    """A line on standard error at growing intervals; none for short stages."""

    def __init__(self) -> None:
        self._label = ""
        self._due = 0.0
        self._pause = _FIRST_LINE

    def begin(self, stage: Running, of: int) -> None:
        """Wait for the first line."""
        self._label, self._pause = label(stage, of), _FIRST_LINE
        self._due = time.monotonic() + self._pause

    def update(self, stage: Running, left: float | None) -> None:
        """Print a line if it is time."""
        now = time.monotonic()
        if now < self._due:
            return
        self._pause = min(self._pause * _LONGER, _LONGEST_PAUSE)
        self._due = now + self._pause
        parts = [counted(stage), remaining(stage, left)]
        self.message(f"{self._label}: {', '.join(filter(None, parts))}")

    def end(self, stage: Running) -> None:
        """Print nothing more about it."""

    def message(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)


class Terminal:
    """A bar on standard error, removed when its stage ends."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def begin(self, stage: Running, of: int) -> None:
        """Show the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[counted]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False, style="cyan"),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task(label(stage, of), total=stage.total, counted=counted(stage), left="")
        self._bar.start()

    def update(self, stage: Running, left: float | None) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        task = self._bar.task_ids[0]
        self._bar.update(
            task,
            completed=stage.done,
            total=stage.total,
            counted=counted(stage),
            left=remaining(stage, left),
        )

    def end(self, stage: Running) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def message(self, text: str) -> None:
        """Print a message above the bar."""
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
