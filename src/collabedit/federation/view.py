"""What a coordinator sees of a round: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

__all__ = ["View", "live_view"]

_STAGES = {
    "join": "joining",
    "prepare": "finding targets",
    "contribute": "computing statistics",
    "evaluate": "evaluating the merged model",
    "accept": "keeping the result",
    "roll back": "rolling back",
}


class View(Protocol):
    """Shows events of a round."""

    def show(self, event: Mapping[str, Any]) -> None:
        """Show one event of the round's log."""


@contextmanager
def live_view(timeout: float) -> Iterator[View]:
    """A view for standard output.

    Args:
        timeout: seconds that an exchange waits for answers.
    """
    console = Console()
    if not console.is_terminal:
        yield _Lines()
        return
    table = _Table(timeout)
    with Live(get_renderable=table.render, console=console, refresh_per_second=2):
        yield table


class _Lines:
    """One line an event."""

    def show(self, event: Mapping[str, Any]) -> None:
        if line := described(event):
            print(line, flush=True)


def described(event: Mapping[str, Any]) -> str:
    """An event as a line; empty for those that say nothing to people."""
    kind = event["event"]
    if kind == "ask":
        to = ", ".join(event["parties"])
        return f"{_STAGES.get(event['stage'], event['stage'])}: {to} ({_size(event['bytes'])} each)"
    if kind == "answer":
        return f"  {event['party']} answered ({_size(event['bytes'])})"
    if kind == "merged":
        return f"  merged layers {event['layers']} of {', '.join(event['parties'])}"
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


class _Table:
    """Parties, what each is doing, how much it has sent, and how long it still may take."""

    def __init__(self, timeout: float) -> None:
        self._timeout, self._since = timeout, time.monotonic()
        self._state: dict[str, str] = {}
        self._received: dict[str, int] = {}
        self._waiting: set[str] = set()
        self._title = "waiting for the parties"

    def show(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "ask":
            self._title = _STAGES.get(event["stage"], event["stage"])
            self._since = time.monotonic()
            self._waiting = set(event["parties"])
            self._state.update(dict.fromkeys(event["parties"], self._title))
        elif kind == "answer":
            party = event["party"]
            self._waiting.discard(party)
            self._state[party] = "answered"
            self._received[party] = self._received.get(party, 0) + event["bytes"]
        elif kind in ("left out", "silent"):
            self._waiting.discard(event["party"])
            self._state[event["party"]] = f"left out: {event['reason']}"
        else:
            self._title = described(event).strip()
            self._waiting = set()

    def render(self) -> Table:
        """The table as it is now."""
        left = max(0.0, self._timeout - (time.monotonic() - self._since))
        waits = f", at most {left:.0f} s more" if self._waiting else ""
        table = Table(title=escape(f"{self._title}{waits}"), title_justify="left")
        for heading in ("party", "stage", "received"):
            table.add_column(heading)
        for party, state in sorted(self._state.items()):
            received = _size(self._received.get(party, 0))
            table.add_row(escape(party), escape(state), received)
        return table
