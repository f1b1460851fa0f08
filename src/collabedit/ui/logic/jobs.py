"""The page's background work: one job at a time, with stages, messages and a way to stop it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from collabedit.errors import CollabEditError, InputError
from collabedit.progress import Running, counted, label, plan, remaining, show_progress

__all__ = ["Job", "JobState", "Jobs", "Status", "Stopped"]

logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """Ends a job that the user stopped.

    Not an ``Exception``, so that error handlers let it pass, as they do with Ctrl-C.
    """


class JobState(str, Enum):
    """The state of a job."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Status:
    """The running stage.

    Attributes:
        stage: its name, such as ``[2/7] Optimising targets``.
        counted: its progress, such as ``12 of 32 edits, 3.1 edits/s``; may be empty.
        left: roughly how long the rest takes, such as ``about 40 s left``; may be empty.
        fraction: how much of all stages is done, from 0 to 1; ``None`` if unknown.
    """

    stage: str = ""
    counted: str = ""
    left: str = ""
    fraction: float | None = None

    @classmethod
    def of(cls, stage: Running, of: int, left: float | None) -> Status:
        """The status of a stage, out of ``of``, with the seconds ``left`` for all of them."""
        rest = remaining(stage, left)
        part = min(stage.done / stage.total, 1.0) if stage.total else None
        if stage.number is None or of == 0:
            return cls(label(stage, of), counted(stage), rest, part)
        done = (stage.number - 1 + (part or 0.0)) / of
        return cls(label(stage, of), counted(stage), rest, done)


class Job:
    """Work in its own thread. It displays its stages, and can stop whenever they report progress.

    Args:
        title: its name on the page.
        work: the work; its return value is the job's result.
        stages: the stages that it goes through, as for :func:`collabedit.progress.plan`.

    Attributes:
        state: whether it is running, or how it ended.
        status: the running stage.
        messages: the work's messages, one line each.
        result: the result of the work, once it is done.
        error: why it failed, one line or more.
    """

    def __init__(self, title: str, work: Callable[[], Any], stages: Sequence[str] = ()) -> None:
        self.title, self._work, self._stages = title, work, tuple(stages)
        self.state = JobState.RUNNING
        self.status = Status()
        self.messages: list[str] = []
        self.result: Any = None
        self.error = ""
        self._of = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"job: {title}", daemon=True)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.state is JobState.RUNNING

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop and has not yet."""
        return self.running and self._stop.is_set()

    def start(self) -> None:
        """Begin the work."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the work to stop when it next reports progress; nothing half-finished is kept."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, for at most ``seconds``; returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def begin(self, stage: Running, of: int) -> None:
        """Record that a stage begins."""
        self._of = of
        self.status = Status.of(stage, of, None)
        self._check()

    def update(self, stage: Running, left: float | None) -> None:
        """Record a stage's progress."""
        self.status = Status.of(stage, self._of, left)
        self._check()

    def end(self, stage: Running) -> None:
        """Leave the stage shown until the next one begins."""

    def message(self, text: str) -> None:
        """Keep a message."""
        self.messages.append(text)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _run(self) -> None:
        state = JobState.FAILED
        try:
            with show_progress(display=self), plan(self._stages):
                self._check()
                self.result = self._work()
            state = JobState.DONE
        except Stopped:
            state = JobState.STOPPED
        except CollabEditError as error:
            self.error = str(error)
        except Exception as error:
            logger.exception("%s failed", self.title)
            self.error = (
                f"{type(error).__name__}: {error}; this should not happen. The terminal that runs "
                "'collabedit ui' shows where it came from"
            )
        finally:
            self.state = state  # last, so that whoever sees it finds the rest set


class Jobs:
    """The jobs of a page, one at a time, since they share the model and the processor.

    Attributes:
        current: the last job that was started, running or ended.
    """

    def __init__(self) -> None:
        self.current: Job | None = None
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether a job is running."""
        return self.current is not None and self.current.running

    def start(self, title: str, work: Callable[[], Any], stages: Sequence[str] = ()) -> Job:
        """Begin a job.

        Args:
            title: its name on the page.
            work: the work, which runs in its own thread.
            stages: the stages that it goes through.

        Raises:
            InputError: while another one is running.
        """
        with self._lock:
            if self.running:
                assert self.current is not None
                raise InputError(f"{self.current.title} is not finished; wait for it, or cancel it")
            self.current = Job(title, work, stages)
            self.current.start()
            return self.current

    def close(self, seconds: float = 5.0) -> None:
        """Stop the running job, and give it ``seconds`` to clean up."""
        if self.current is not None:
            self.current.stop()
            self.current.wait(seconds)
