"""Progress of long work: one display and one log for every stage of a command.

A stage is a ``with`` block of :func:`progress`. A command that knows its stages announces them
with :func:`plan`; the display then counts them and estimates the time left over all
of them. Messages for the user go through :func:`say`, so that they never break a bar.

:func:`show_progress` chooses the display: a bar on a terminal, lines at growing intervals
elsewhere, a custom :class:`Display`, or nothing; and a log file of all events as JSON.
"""

from collabedit.progress.clock import Running, duration
from collabedit.progress.displays import Display, counted, label, remaining
from collabedit.progress.events import EventLog
from collabedit.progress.stages import (
    Progress,
    interrupted_stage,
    plan,
    progress,
    say,
    show_progress,
)

__all__ = [
    "Display",
    "EventLog",
    "Progress",
    "Running",
    "counted",
    "duration",
    "interrupted_stage",
    "label",
    "plan",
    "progress",
    "remaining",
    "say",
    "show_progress",
]
