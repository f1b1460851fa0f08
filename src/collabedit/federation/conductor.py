"""The coordinator's side of a round between organisations, over any transport."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from collabedit.errors import CollabEditError, RoundError
from collabedit.federation.folder import Report, RoundFolder, SharedEdits, Status
from collabedit.federation.sharing import compare_edits, settle_edits
from collabedit.merging import resolve_method
from collabedit.messages import (
    Covariance,
    Evaluation,
    Hits,
    Joined,
    Opening,
    Policy,
    Request,
)
from collabedit.messages.evaluation import Kind
from collabedit.rounds import (
    Coordinator,
    Dropout,
    Failure,
    Ledger,
    Transport,
    dynamic_priors,
    run_gate,
    run_round,
    static_priors,
)

__all__ = ["RoundConductor"]

Answer = TypeVar("Answer")


class RoundConductor:
    """Runs one round: opening, exchanges, the merge, the parties' evaluation, and the decision.

    It needs no model. Everything it knows is in the round's folder, so that after a crash another
    conductor can continue from the same folder.

    Args:
        folder: the round's folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = RoundFolder(Path(folder))
        self._left_out: dict[str, str] = {}
        self._lock = threading.Lock()

    def heard(self, party: str, size: int) -> None:
        """Log that an answer arrived."""
        with self._lock:
            self._folder.tell("answer", party=party, bytes=size)

    def conduct(self, transport: Transport) -> None:
        """Run the round, or the rest of it; the folder has the report afterwards.

        If a round stops, nothing is merged, and its report says why. One that only compares
        fingerprints has no report yet.

        Raises:
            RoundError: when the transport was cut off; the round can then be continued.
        """
        if self._folder.report is not None:
            return
        started = time.monotonic()
        logged = _Logged(transport, self._folder)
        try:
            report = self._run(logged)
        except CollabEditError as error:
            if logged.cut_off:
                raise
            report = self._report("stopped", str(error))
        if report is None:
            self._folder.tell("end", status="compared", reason="")
            return
        seconds = round(time.monotonic() - started, 1)
        whole = report.model_copy(
            update={
                "left_out": dict(self._left_out),
                "sent": logged.sent,
                "received": logged.received,
                "seconds": seconds,
            }
        )
        self._folder.finish(whole)
        self._folder.tell("end", status=whole.status, reason=whole.reason)

    def _run(self, transport: _Logged) -> Report | None:
        settings = self._folder.settings
        coordinator = None if settings.compare_only else self._coordinator()
        transport.parties = self._join(transport)
        shared = self._settle(transport)
        if coordinator is None:
            return None
        delta = run_round(
            transport,
            coordinator,
            on_dropout=settings.on_dropout,
            min_parties=settings.min_parties,
            checkpoint=self._checkpoint,
            left_out=self._leave_out,
        )
        delta.save(self._folder.path / "delta.safetensors")
        parties = [entry.party for entry in coordinator.ledger.exchanges[-1].entries]
        verdict = run_gate(
            transport,
            coordinator,
            without_edits=[] if shared is None else shared.parties_without_edits,
            unheard=self._unheard,
        )
        if verdict.accepted:
            self._keep_state(coordinator)
        report = self._report("accepted" if verdict.accepted else "rolled back", verdict.reason)
        return report.model_copy(
            update={
                "parties": tuple(parties),
                "edits": delta.metadata.edits,
                "shared": shared,
                "hits": _total(verdict.votes),
                "votes": verdict.votes,
                "next_sha256": _agreed(verdict.votes) if verdict.accepted else {},
            }
        )

    def _settle(self, transport: _Logged) -> SharedEdits | None:
        """Settle shared edits, if the round does so; only parties with edits left go on."""
        settings = self._folder.settings
        if settings.policy is None and not settings.compare_only:
            return None
        detection = compare_edits(self._folder, transport, self._lose)
        if settings.compare_only:
            return None
        shared = settle_edits(self._folder, transport, detection, self._lose)
        transport.parties = [party for party, count in sorted(shared.kept.items()) if count]
        self._require_enough(transport.parties, "have edits to merge")
        return shared

    def _lose(self, party: str, failure: Failure) -> None:
        if self._folder.settings.on_dropout is Dropout.STOP:
            reason = failure.reason.removeprefix(f"{party}: ")
            raise RoundError(f"{reason}; nothing was merged", party=party)
        self._leave_out(party, failure)

    def _require_enough(self, parties: Sequence[str], are: str) -> None:
        least = self._folder.settings.min_parties
        if len(parties) < least:
            raise RoundError(
                f"{len(parties)} parties {are}, but {least} are needed; nothing was merged"
            )

    def _report(self, status: Status, reason: str) -> Report:
        config = self._folder.config
        return Report(
            status=status,
            reason=reason,
            round_sha256=config.sha256,
            schedule=config.schedule.value,
        )

    def _coordinator(self) -> Coordinator:
        config, settings, before = (
            self._folder.config,
            self._folder.settings,
            self._folder.before,
        )
        if before.sha256 != config.state_sha256:
            raise RoundError("the round does not start from the state that earlier rounds left")
        if settings.covariance is None:
            raise RoundError(
                "the round's settings name no covariance, which merging needs; give --covariance"
            )
        covariance = Covariance.load(settings.covariance)
        priors = static_priors(config, covariance, settings.memory_budget)
        if before.finished:
            beta = config.rules.beta if settings.beta is None else settings.beta
            priors = dynamic_priors(priors, before.keys, beta)
        kept = self._folder.path / "ledger.safetensors"
        ledger = Ledger.load(kept) if kept.is_file() else None
        if ledger is not None:
            self._folder.tell("continued", exchanges=len(ledger.exchanges))
        return Coordinator(config, priors, resolve_method(settings.method), ledger=ledger)

    def _join(self, transport: _Logged) -> list[str]:
        config = self._folder.config
        roster = tuple(sorted(transport.parties))
        settings = self._folder.settings
        policy = Policy.REPORT if settings.compare_only else settings.policy
        opening = Opening(config, roster, self._folder.before.changes, policy)

        def joined(party: str, reply: bytes) -> Joined:
            answer = Joined.from_bytes(reply, party)
            answer.check(config)
            return answer

        answers: list[str] = []
        for party, reply in sorted(transport.ask("join", opening.to_bytes(), roster).items()):
            outcome = reply if isinstance(reply, Failure) else _read(party, reply, joined)
            if isinstance(outcome, Failure):
                self._leave_out(party, outcome)
            else:
                answers.append(party)
        self._require_enough(answers, "joined")
        return answers

    def _keep_state(self, coordinator: Coordinator) -> None:
        before = self._folder.before
        base = dict(before.base_sha256) or dict(coordinator.config.covariance_sha256)
        after = replace(before, base_sha256=base).after(coordinator.delta.changes, coordinator.keys)
        after.save(self._folder.path / "state.safetensors")

    def _unheard(self, party: str, stage: str, failure: Failure) -> None:
        self._folder.tell("silent", party=party, stage=stage, reason=failure.reason)

    def _leave_out(self, party: str, failure: Failure) -> None:
        reason = failure.reason.removeprefix(f"{party}: ")
        self._left_out[party] = reason
        self._folder.tell("left out", party=party, reason=reason)

    def _checkpoint(self, ledger: Ledger) -> None:
        ledger.save(self._folder.path / "ledger.safetensors")
        latest = ledger.exchanges[-1]
        parties = [entry.party for entry in latest.entries]
        self._folder.tell("merged", layers=list(latest.layers), parties=parties)


class _Logged:
    """A transport that logs what it does, and counts bytes."""

    def __init__(self, transport: Transport, folder: RoundFolder) -> None:
        self._transport, self._folder = transport, folder
        self.parties: Sequence[str] = sorted(transport.parties)
        self.sent = self.received = 0
        self.cut_off = False

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        """Ask as the round's loop does."""
        return self.ask(Request.from_bytes(request).kind.value, request, to)

    def ask(self, stage: str, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        """Ask, and log the stage."""
        self._folder.tell("ask", stage=stage, parties=list(to), bytes=len(request))
        self.cut_off = True  # unless the transport returns
        replies = self._transport.exchange(request, to)
        self.cut_off = False
        self.sent += len(request) * len(to)
        self.received += sum(len(r) for r in replies.values() if isinstance(r, bytes))
        return replies


def _read(party: str, reply: bytes, read: Callable[[str, bytes], Answer]) -> Answer | Failure:
    try:
        return read(party, reply)
    except CollabEditError as error:
        return Failure(str(error), error)


def _total(evaluated: Mapping[str, Evaluation]) -> dict[Kind, Hits]:
    total: dict[Kind, Hits] = {}
    for answer in evaluated.values():
        for kind, hits in answer.hits.items():
            total[kind] = total[kind] + hits if kind in total else hits
    return total


def _agreed(evaluated: Mapping[str, Evaluation]) -> dict[str, str]:
    """The weights that most parties have after the round; in a tie, the first party's."""
    reported = [tuple(sorted(answer.next_sha256.items())) for answer in evaluated.values()]
    return dict(Counter(reported).most_common(1)[0][0]) if reported else {}
