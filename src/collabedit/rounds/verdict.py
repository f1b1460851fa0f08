"""Whether a delta is kept: counting the votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from collabedit.messages import Evaluation, Gate

__all__ = ["COORDINATOR", "Verdict", "judge"]

#: Name under which a coordinator with a model votes.
COORDINATOR = "coordinator"


class Verdict(BaseModel):
    """Whether a delta is kept, and who voted how.

    Attributes:
        accepted: whether it is kept.
        reason: why not; empty if it is kept.
        votes: by party.
    """

    model_config = ConfigDict(frozen=True)

    accepted: bool
    reason: str = ""
    votes: dict[str, Evaluation]


def judge(gate: Gate, votes: Mapping[str, Evaluation], parties: Sequence[str]) -> Verdict:
    """Count the votes.

    More than half of the parties must vote, so that abstentions can't leave the decision to a few.

    Args:
        gate: the round's.
        votes: by party, including the coordinator's own if it has a model.
        parties: whose edits are merged.
    """
    reason = _silence(votes, parties) or _rejection(gate, votes)
    return Verdict(accepted=not reason, reason=reason, votes=dict(votes))


def _silence(votes: Mapping[str, Evaluation], parties: Sequence[str]) -> str:
    voted = len(votes.keys() - {COORDINATOR})
    if 2 * voted > len(parties):
        return ""
    return f"{voted} of {len(parties)} parties voted; more than half must"


def _rejection(gate: Gate, votes: Mapping[str, Evaluation]) -> str:
    against = {party: vote for party, vote in votes.items() if not vote.accepts}
    accepting = len(votes) - len(against)
    if accepting >= gate.least_share * len(votes):
        return ""
    whose = "; ".join(f"{party} {gate.words(vote)}" for party, vote in against.items())
    return f"{accepting} of {len(votes)} votes accept, {gate.least_share:.0%} must; {whose}"
