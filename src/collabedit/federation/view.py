"""What a coordinator sees of a round: a stage for each exchange, and lines for what happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from collabedit.progress import Progress, plan, progress, say
from collabedit.progress.plans import EXCHANGES

__all__ = ["View", "described", "live_view"]

#: Stages of an ordinary round, so that they can be counted.
_USUAL = ("join", "prepare", "contribute", "evaluate", "accept")
#: Seconds between updates of a stage in which nothing happens.
_TICK = 5.0


class View:
    """Shows events of a round as stages of the command that runs it.

    A bar on a terminal counts the parties that have answered and shows how much longer the exchange
    waits at most; elsewhere there are lines. Sizes and reasons are lines in both.

    Args:
        timeout: how long an exchange waits for answers, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._stage = ExitStack()
        self._progress: Progress | None = None
        self._ticked = 0.0

    def show(self, event: Mapping[str, Any]) -> None:
        """Show one event of the round's log."""
        kind = event["event"]
        if kind in ("ask", "end"):
            self.close()
        if line := described(event):
            say(line)
        if kind == "ask":
            total = len(event["parties"])
            stage = progress(EXCHANGES[event["stage"]], total, "parties", limit=self._timeout)
            self._progress = self._stage.enter_context(stage)
        elif kind == "answer" and self._progress is not None:
            self._progress.advance()

    def tick(self) -> None:
        """Update the time left while nothing else happens."""
        if self._progress is not None and time.monotonic() > self._ticked + _TICK:
            self._ticked = time.monotonic()
            self._progress.advance(0)

    def close(self) -> None:
        """End the stage that is shown."""
        self._progress = None
        self._stage.close()


@contextmanager
def live_view(timeout: float, shared: bool = False) -> Iterator[View]:
    """A view of one round.

    Args:
        timeout: how long an exchange waits for answers, in seconds.
        shared: whether fingerprints are compared first.
    """
    view = View(timeout)
    with plan(_planned(shared)):
        try:
            yield view
        finally:
            view.close()


def _planned(shared: bool) -> Sequence[str]:
    first, *rest = _USUAL
    return [EXCHANGES[stage] for stage in (first, *["announce", "decide"] * shared, *rest)]


def described(event: Mapping[str, Any]) -> str:
    """An event as a line; empty if people don't need to see it."""
    kind = event["event"]
    if kind == "ask":
        to = ", ".join(event["parties"])
        return f"{EXCHANGES[event['stage']]}: {to} ({_size(event['bytes'])} each)"
    if kind == "answer":
        return f"  {event['party']} answered ({_size(event['bytes'])})"
    if kind == "merged":
        return f"  merged layers {event['layers']} of {', '.join(event['parties'])}"
    if kind == "compared":
        return (
            f"  shared questions: {event['overlaps']} overlap, {event['conflicts']} conflict; "
            f"subjects with different facts: {event['subjects']}"
        )
    if kind == "decided":
        kept = (f"{p} keeps {n} of {event['edits'][p]}" for p, n in event["kept"].items())
        return f"  by '{event['policy']}': {', '.join(kept)}"
    if kind == "left out":
        return f"  {event['party']} is left out: {event['reason']}"
    if kind == "silent":
        return f"  {event['party']} did not take part in '{event['stage']}': {event['reason']}"
    if kind == "continued":
        return f"continued after {event['exchanges']} finished exchanges"
    if kind == "end":
        return f"{event['status']}{': ' + event['reason'] if event['reason'] else ''}"
    return ""


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
