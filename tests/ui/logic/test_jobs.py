"""Jobs: stages, messages, failures, and stopping."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from collabedit.errors import InputError, ModelError
from collabedit.progress import progress, say
from collabedit.ui.logic import Job, Jobs, JobState


def ended(job: Job) -> Job:
    assert job.wait(30)
    return job


def test_a_job_shows_its_stages_and_messages() -> None:
    seen: list[Any] = []

    def work() -> int:
        say("It begins")
        with progress("Loading the model"):
            seen.append(job.status)
        with progress("Generating", 4, "texts") as bar:
            bar.advance()
            seen.append(job.status)
        return 7

    job = Job("Asking", work, ("Loading the model", "Generating"))
    job.start()
    ended(job)
    assert (job.state, job.result, job.messages) == (JobState.DONE, 7, ["It begins"])
    loading, generating = seen
    assert (loading.stage, loading.fraction) == ("[1/2] Loading the model", 0)
    assert generating.stage == "[2/2] Generating"
    assert generating.counted.startswith("1 of 4 texts")
    assert generating.fraction == (1 + 1 / 4) / 2


def test_a_stage_outside_of_the_plan_has_its_own_fraction() -> None:
    seen: list[Any] = []

    def work() -> None:
        with progress("Scoring", 4, "texts") as bar:
            bar.advance(3)
            seen.append(job.status.fraction)
        with progress("Downloading"):
            seen.append(job.status.fraction)

    job = Job("Asking", work)
    job.start()
    ended(job)
    assert seen == [0.75, None]


def test_failures_are_kept_for_the_page(caplog: pytest.LogCaptureFixture) -> None:
    def on_purpose() -> None:
        raise ModelError("no such model; choose another")

    def by_mistake() -> None:
        raise ZeroDivisionError("division by zero")

    jobs = Jobs()
    job = ended(jobs.start("Loading", on_purpose))
    assert (job.state, job.error) == (JobState.FAILED, "no such model; choose another")
    assert not caplog.records
    job = ended(jobs.start("Loading", by_mistake))
    assert job.state is JobState.FAILED
    assert "ZeroDivisionError: division by zero; this should not happen" in job.error
    assert "Traceback" in caplog.text


def test_a_job_stops_when_it_reports_progress_and_cleans_up() -> None:
    begun, cleaned = threading.Event(), []

    def work() -> None:
        try:
            with progress("Generating", 1e9, "texts") as bar:
                while True:
                    begun.set()
                    bar.advance()
        except Exception:  # as code that explains failures does
            cleaned.append("explained")
        finally:
            cleaned.append("restored")

    jobs = Jobs()
    job = jobs.start("Endless", work)
    assert begun.wait(30)
    with pytest.raises(InputError, match="Endless is not finished"):
        jobs.start("Another", lambda: None)
    job.stop()
    ended(job)
    assert job.state is JobState.STOPPED
    assert cleaned == ["restored"]
    assert ended(jobs.start("Another", lambda: 1)).result == 1


def test_closing_stops_the_running_job() -> None:
    jobs = Jobs()
    jobs.close()

    def work() -> None:
        with progress("Generating", 1e9, "texts") as bar:
            while True:
                bar.advance()

    job = jobs.start("Endless", work)
    jobs.close()
    assert job.state is JobState.STOPPED
