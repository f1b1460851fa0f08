"""Running a federation's rounds on FLARE: what ``collabedit federation coordinator run`` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from collabedit.errors import InputError, RoundError
from collabedit.federation.folder import Report, RoundFolder, Settings
from collabedit.federation.view import View, live_view
from collabedit.files import read_json, utc_now, write_json
from collabedit.messages import RoundConfig
from collabedit.transports.flare.jobs import submit

__all__ = ["connected", "next_round", "open_rounds", "run_round_on", "wait_for_parties"]

_CONDUCTOR = "collabedit.federation.conductor.RoundConductor"
_MEMBER = "collabedit.federation.member.Member"
_ENDED = "FINISHED"


def open_rounds(rounds: Path, config: RoundConfig, settings: Settings) -> RoundFolder:
    """The round to run in a folder: the unfinished one, or the first one.

    Args:
        rounds: the coordinator's folder of rounds.
        config: of the first round.
        settings: for all rounds of the folder.

    Raises:
        InputError: when the folder holds rounds with other settings, or of another round file.
    """
    rounds.mkdir(parents=True, exist_ok=True)
    known = RoundFolder.all_in(rounds)
    if known and known[0].config.sha256 != config.sha256:
        raise InputError(f"{rounds}: holds rounds of another round file; choose another --out")
    path = rounds / "settings.json"
    write_json(path, settings.model_dump(mode="json"))
    if not known:
        return RoundFolder.begin(rounds, config)
    return known[-1] if known[-1].report is None else next_round(rounds)


def next_round(rounds: Path) -> RoundFolder:
    """Begin the round after the last one: on its result, or again where it was not kept."""
    last = RoundFolder.all_in(rounds)[-1]
    report, config = last.report, last.config
    if report is None:
        raise InputError(f"{last.path}: the round has not ended")
    changes: dict[str, Any] = {"created": utc_now()}
    if report.status == "accepted":
        state = RoundFolder(rounds / f"round_{len(RoundFolder.all_in(rounds)) + 1:03}").before
        changes |= {
            "model_sha256": report.next_sha256,
            "state_sha256": state.sha256,
            "base_sha256": dict(state.base_sha256),
        }
    values = {**config.model_dump(mode="json"), **changes}
    return RoundFolder.begin(rounds, RoundConfig.model_validate(values))


def connected(session: Any) -> list[str]:
    """Names of the parties that are connected."""
    return sorted(client.name for client in session.get_system_info().client_info)


def wait_for_parties(
    session: Any, least: int, seconds: float, tell: Callable[[str], None] = print
) -> Sequence[str]:
    """Wait until enough parties are connected.

    Raises:
        RoundError: when they are not in time.
    """
    end, told = time.monotonic() + seconds, -1
    while True:
        here = connected(session)
        if len(here) != told:
            told = len(here)
            tell(f"connected: {', '.join(here) or 'no party yet'}")
        if len(here) >= least:
            return here
        if time.monotonic() > end:
            raise RoundError(
                f"{len(here)} parties are connected and {least} are needed; nothing was begun"
            )
        time.sleep(1.0)


def run_round_on(session: Any, folder: RoundFolder, timeout: float) -> Report:
    """Run a round on FLARE, or follow the one that is running, to its report.

    Args:
        session: with the coordinator's server.
        folder: of the round.
        timeout: seconds that an exchange waits for answers.

    Raises:
        RoundError: when FLARE ends it without a report, so that it may be continued.
    """
    known = sum(1 for _ in folder.events())
    job = _running_job(session, folder)
    if job is None:
        job = submit(
            session,
            connected(session),
            conductor=_CONDUCTOR,
            folder_of_round=folder.path.resolve(),
            answering=_MEMBER,
            timeout=timeout,
        )
        write_json(folder.path / "job.json", {"job": job})
    with live_view(timeout) as view:
        report = _follow(session, job, folder, view, known)
    _wait_for_end(session, job)
    return report


def _running_job(session: Any, folder: RoundFolder) -> str | None:
    path = folder.path / "job.json"
    if not path.is_file():
        return None
    job = str(read_json(path, "job")["job"])
    status = _status(session, job)
    return job if status in ("RUNNING", "DISPATCHED", "SUBMITTED", "APPROVED") else None


def _status(session: Any, job: str) -> str:
    try:
        return str(session.get_job_meta(job).get("status", ""))
    except Exception as error:  # FLARE raises many kinds; the server may be gone
        return f"unknown ({type(error).__name__})"


def _follow(session: Any, job: str, folder: RoundFolder, view: View, shown: int) -> Report:
    """Show events until the report is there; FLARE's word counts when it has ended the job."""
    asked = time.monotonic()
    while True:
        for event in folder.events(after=shown):
            view.show(event)
            shown += 1
        if (report := folder.report) is not None:
            return report
        if time.monotonic() - asked > 3:
            asked, status = time.monotonic(), _status(session, job)
            if status.startswith(_ENDED) and folder.report is None:
                raise RoundError(
                    f"the round was cut off ({status}); run the same command again to continue "
                    "after the last finished exchange"
                )
            if status.startswith("unknown"):
                raise RoundError(
                    "the coordinator's server is gone; start it and run the same command again "
                    "to continue after the last finished exchange"
                )
        time.sleep(0.2)


def _wait_for_end(session: Any, job: str, seconds: float = 60.0) -> None:
    """Until FLARE has ended the job, so that the parties are free for the next one."""
    end = time.monotonic() + seconds
    while not _status(session, job).startswith(_ENDED) and time.monotonic() < end:
        time.sleep(0.5)
