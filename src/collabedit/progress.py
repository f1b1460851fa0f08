"""Progress bars on standard error: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Progress", "progress", "say"]


def say(message: str) -> None:
    """Print a message on standard error."""
    print(message, file=sys.stderr, flush=True)


class Progress:
    """A handle to report finished units of work to."""

    def advance(self, amount: float = 1) -> None:
        """Report ``amount`` further units as done."""


@contextmanager
def progress(description: str, total: float, unit: str = "it") -> Iterator[Progress]:
    """Show a bar for ``total`` units of work with the rate and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Progress()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, rate="")

        class Handle(Progress):
            def advance(self, amount: float = 1) -> None:
                speed = bar.tasks[0].speed
                rate = f"{speed:,.1f} {unit}/s" if speed else ""
                bar.update(task, advance=amount, rate=rate)

        yield Handle()
