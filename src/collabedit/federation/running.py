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
from collabedit.messages import ContributionMetadata, RoundConfig
from collabedit.progress import say
from collabedit.transports.flare.jobs import submit

__all__ = [
    "compare_on",
    "connected",
    "next_round",
    "open_rounds",
    "run_round_on",
    "wait_for_parties",
]

_CONDUCTOR = "collabedit.federation.conductor.RoundConductor"
_MEMBER = "collabedit.federation.member.Member"
#: How many times a round that FLARE cuts off is attempted before giving up.
_ATTEMPTS = 3


def open_rounds(rounds: Path, config: RoundConfig, settings: Settings) -> RoundFolder:
    """The round to run in a folder: the unfinished one, or the first one.

    Args:
        rounds: the coordinator's folder of rounds.
        config: configuration of the first round.
        settings: settings of all rounds in the folder.

    Raises:
        InputError: when the folder holds rounds of another round file, or an unfinished one whose
            shared edits were settled by another policy.
    """
    rounds.mkdir(parents=True, exist_ok=True)
    known = RoundFolder.all_in(rounds)
    if known and known[0].config.sha256 != config.sha256:
        raise InputError(f"{rounds}: holds rounds of another round file; choose another --out")
    if known and known[-1].report is None:
        _check_decided(known[-1], settings)
    path = rounds / "settings.json"
    write_json(path, settings.model_dump(mode="json"))
    if not known:
        return RoundFolder.begin(rounds, config)
    return known[-1] if known[-1].report is None else next_round(rounds)


def _check_decided(folder: RoundFolder, settings: Settings) -> None:
    """Parties follow only one decision in a round, since two would reveal their difference."""
    decision = folder.decision
    if decision is not None and decision.policy is not settings.policy:
        raise InputError(
            f"{folder.path}: its shared edits were already settled by "
            f"--policy {decision.policy.value}; give that policy"
        )


def next_round(rounds: Path) -> RoundFolder:
    """Begin the round after the last one: from its result, or from its start if it was not kept."""
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
    session: Any, least: int, seconds: float, tell: Callable[[str], None] = say
) -> Sequence[str]:
    """Wait until enough parties are connected.

    Raises:
        RoundError: when they are not connected in time.
    """
    end, announced = time.monotonic() + seconds, -1
    while True:
        here = connected(session)
        if len(here) != announced:
            announced = len(here)
            tell(f"connected: {', '.join(here) or 'no party yet'}")
        if len(here) >= least:
            return here
        if time.monotonic() > end:
            raise RoundError(
                f"{len(here)} parties are connected, but {least} are needed; no round was started"
            )
        time.sleep(1.0)


def run_round_on(session: Any, folder: RoundFolder, timeout: float) -> Report:
    """Run a round on FLARE, or follow the one that is running, until its report.

    Args:
        session: a session with the coordinator's server.
        folder: the round's folder.
        timeout: how long an exchange waits for answers, in seconds.

    Raises:
        RoundError: when FLARE ends it without a report; the round can then be continued.
    """
    _run_until(session, folder, timeout, lambda: folder.report is not None)
    report = folder.report
    assert report is not None
    return report


def compare_on(
    session: Any, folder: RoundFolder, timeout: float
) -> dict[str, ContributionMetadata]:
    """Begin a round on FLARE, and stop after the comparison of fingerprints.

    Args:
        session: a session with the coordinator's server.
        folder: the round's folder, whose settings say ``compare_only``.
        timeout: how long an exchange waits for answers, in seconds.

    Returns:
        By party, what it announced.

    Raises:
        RoundError: when the round stops before the comparison.
    """

    def compared() -> bool:
        return folder.report is not None or folder.fingerprints is not None

    if not compared():
        _run_until(session, folder, timeout, compared)
    announced = folder.fingerprints
    if announced is None:
        report = folder.report
        raise RoundError("nothing was compared" if report is None else report.reason)
    return announced


def _run_until(session: Any, folder: RoundFolder, timeout: float, done: Callable[[], bool]) -> None:
    shown = sum(1 for _ in folder.events())
    with live_view(timeout, folder.settings.policy is not None) as view:
        for _ in range(_ATTEMPTS):
            job = _running_job(session, folder) or _begin_job(session, folder, timeout)
            shown = _follow(session, job, folder, view, shown, done)
            _wait_for_end(session, job)
            if done():
                return
    raise RoundError(
        f"FLARE cut the round off {_ATTEMPTS} times, as it does when a party reports that it "
        "failed; run the same command again to continue after the last finished exchange"
    )


def _begin_job(session: Any, folder: RoundFolder, timeout: float) -> str:
    job = submit(
        session,
        connected(session),
        conductor=_CONDUCTOR,
        folder_of_round=folder.path.resolve(),
        answering=_MEMBER,
        timeout=timeout,
    )
    write_json(folder.path / "job.json", {"job": job})
    return job


def _running_job(session: Any, folder: RoundFolder) -> str | None:
    path = folder.path / "job.json"
    if not path.is_file():
        return None
    job = str(read_json(path, "job")["job"])
    return job if _state(session, job) in ("waiting", "running") else None


def _state(session: Any, job: str) -> str:
    """``waiting``, ``running``, ``ended``, or ``unknown`` if the server does not answer.

    After a server is killed and restarted, it still lists its old jobs as running.
    """
    try:
        status = str(session.get_job_meta(job).get("status", ""))
        runs = any(info.job_id == job for info in session.get_system_info().job_info)
    except Exception:  # FLARE raises many kinds
        return "unknown"
    if status.startswith("FINISHED"):
        return "ended"
    if runs:
        return "running"
    return "ended" if status == "RUNNING" else "waiting"


def _follow(
    session: Any,
    job: str,
    folder: RoundFolder,
    view: View,
    shown: int,
    done: Callable[[], bool],
) -> int:
    """Show events until the round is done or FLARE has ended the job; returns their number."""
    asked, gone = time.monotonic(), 0
    while True:
        for event in folder.events(after=shown):
            view.show(event)
            shown += 1
        view.tick()
        if gone > 1 or done():
            return shown
        if time.monotonic() - asked > 3:
            asked, state = time.monotonic(), _state(session, job)
            gone = gone + 1 if state == "ended" else 0
            if state == "unknown":
                raise RoundError(
                    "the coordinator's server is gone; start it and run the same command again "
                    "to continue after the last finished exchange"
                )
        time.sleep(0.2)


def _wait_for_end(session: Any, job: str, seconds: float = 60.0) -> None:
    """Wait until FLARE has ended the job, so that the parties are free for the next one."""
    end = time.monotonic() + seconds
    while _state(session, job) != "ended" and time.monotonic() < end:
        time.sleep(0.5)
