"""A job's status for all tabs: its stage, its progress, and a button to stop it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from collabedit.ui.logic import Job, Jobs, JobState
from collabedit.ui.widgets import button, lines

__all__ = ["JobPanel"]

_ENDED = {
    JobState.DONE: "{}: done",
    JobState.FAILED: "{}: failed",
    JobState.STOPPED: "{}: cancelled; nothing was changed",
}


class JobPanel:
    """Shows the last job of a page until it is dismissed.

    Args:
        jobs: the page's jobs.
        ended: called when a job has ended.
    """

    def __init__(self, jobs: Jobs, ended: Callable[[], Awaitable[None]]) -> None:
        self._jobs, self._ended = jobs, ended
        self._known = None if jobs.running else jobs.current  # not one that has ended
        self._shown: Job | None = None
        self._awaited = False
        self._messages_shown = 0
        with ui.element("section").classes("job").props('aria-label="What is running"') as panel:
            self._panel = panel
            with ui.element("div").classes("job-line"):
                # screen readers announce only the title, and each stage once
                self._title = ui.label().classes("job-title").props("role=status")
                self._stop = button("Cancel", self._cancel)
                self._close = button("Dismiss", self._dismiss, "quiet")
            self._bar = ui.linear_progress(0, show_value=False, size="10px")
            self._bar.props('aria-label="Progress" rounded')
            with ui.element("div").classes("job-line"):
                self._stage = ui.label().classes("job-stage").props("role=status")
                self._count = ui.label().classes("job-count")
            self._messages = ui.element("div").classes("job-messages")
            self._error = ui.label().classes("job-error").props("role=alert")
        self._show()

    async def tick(self) -> None:
        """Bring the panel up to date; called a few times a second."""
        self._show()
        if self._awaited and self._known is not None and not self._known.running:
            self._awaited = False
            await self._ended()

    def _show(self) -> None:
        job = self._jobs.current
        if job is not None and job is not self._known:  # even if it has ended since
            self._begin(job)
        self._panel.set_visibility(self._shown is not None)
        if job is None or job is not self._shown:
            return
        self._update(job)

    def _begin(self, job: Job) -> None:
        self._known, self._shown, self._awaited, self._messages_shown = job, job, True, 0
        self._messages.clear()

    def _update(self, job: Job) -> None:
        running, status = job.running, job.status
        title = job.title if running else _ENDED[job.state].format(job.title)
        self._title.set_text("Cancelling …" if job.stopping else title)
        self._stop.set_visibility(running)
        self._close.set_visibility(not running)
        self._bar.set_visibility(running)
        self._stage.set_text(status.stage if running else "")
        rest = ", ".join(part for part in (status.counted, status.left) if part)
        self._count.set_text(rest if running else "")
        self._error.set_text(job.error)
        self._error.set_visibility(bool(job.error))
        if status.fraction is None:
            self._bar.props("indeterminate")
        else:
            self._bar.props(remove="indeterminate")
            self._bar.set_value(round(status.fraction, 3))
        self._add_messages(job)

    def _add_messages(self, job: Job) -> None:
        fresh = job.messages[self._messages_shown :]
        if fresh:
            self._messages_shown += len(fresh)
            with self._messages:
                lines(fresh)

    def _cancel(self) -> None:
        if self._shown is not None:
            self._shown.stop()
        self._show()

    def _dismiss(self) -> None:
        self._shown = None
        self._show()
