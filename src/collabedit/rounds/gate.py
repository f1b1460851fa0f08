"""The gate: parties try a complete delta, vote, and hear whether it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from collabedit.errors import RoundError
from collabedit.messages import Evaluation, Request, RequestKind, Settled
from collabedit.rounds.asking import Unheard, ask
from collabedit.rounds.coordinator import Coordinator
from collabedit.rounds.transport import Transport
from collabedit.rounds.verdict import COORDINATOR, Verdict, judge

__all__ = ["run_gate"]


def run_gate(
    transport: Transport,
    coordinator: Coordinator,
    *,
    own: Evaluation | None = None,
    without_edits: Sequence[str] = (),
    unheard: Unheard = lambda party, stage, failure: None,
) -> Verdict:
    """Have the parties of a complete round try its delta, and keep it or roll back.

    The verdict goes into the coordinator's ledger, and to all parties. Nothing else changes: later
    rounds start from the delta and the keys only if it is kept.

    Args:
        transport: reaches the parties.
        coordinator: of the round.
        own: the vote of a coordinator that has a model (:func:`collabedit.parties.try_delta`).
        without_edits: names of further parties of the round, whose edits others hold. They hear
            the verdict but have no vote.
        unheard: called for parties that don't answer. They have no vote.

    Raises:
        RoundError: when the round is not complete.
    """
    coordinator.delta.require_complete()
    parties = _parties(transport, coordinator)
    trial = Request(RequestKind.EVALUATE, coordinator.delta)
    votes = ask(transport, trial, parties, partial(_vote, coordinator), unheard)
    if own is not None:
        _check(coordinator, own)
        votes[COORDINATOR] = own
    verdict = judge(coordinator.config.vote_by, votes, parties)
    coordinator.ledger = replace(coordinator.ledger, verdict=verdict)
    kind = RequestKind.ACCEPT if verdict.accepted else RequestKind.ROLL_BACK
    recipients = sorted({*parties, *without_edits})
    ask(transport, Request(kind, coordinator.delta), recipients, _settled, unheard)
    return verdict


def _parties(transport: Transport, coordinator: Coordinator) -> Sequence[str]:
    """Parties whose edits are merged; all of them if the ledger does not say."""
    merged = [entry.party for entry in coordinator.ledger.exchanges[-1].entries]
    return merged or sorted(transport.parties)


def _vote(coordinator: Coordinator, party: str, reply: bytes) -> Evaluation:
    vote = Evaluation.from_bytes(reply, party)
    if vote.party not in ("", party):
        raise RoundError(f"it calls itself {vote.party!r}", party=party)
    _check(coordinator, vote)
    return vote


def _check(coordinator: Coordinator, vote: Evaluation) -> None:
    vote.check(coordinator.config.sha256, coordinator.delta.sha256)
    if vote.next_sha256 and set(vote.next_sha256) != set(coordinator.config.weight_names):
        raise RoundError("it evaluated other weights")


def _settled(party: str, reply: bytes) -> Settled:
    return Settled.from_bytes(reply, party)
