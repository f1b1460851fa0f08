"""The coordinator's part before anything is measured: which edits parties share, and whose stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from collabedit.federation.folder import RoundFolder, SharedEdits
from collabedit.messages import ContributionMetadata, Decision, Policy
from collabedit.privacy import Detection, decide, detect
from collabedit.rounds import Failure, Transport, ask_fingerprints, ask_to_follow
from collabedit.rounds.asking import Unheard

__all__ = ["compare_edits", "settle_edits"]

#: Takes a party out of the round.
LeaveOut = Callable[[str, Failure], None]


def compare_edits(folder: RoundFolder, transport: Transport, leave_out: LeaveOut) -> Detection:
    """Find what the parties' edits have in common, from fingerprints that they announce.

    What they announced stays in the round's folder, so that a continued round compares the same.

    Args:
        folder: of the round.
        transport: reaches the parties.
        leave_out: is given parties that announce nothing of use, and those that came after it.
    """
    known = folder.fingerprints
    if known is None:
        announced = ask_fingerprints(transport, folder.config, _as_unheard(leave_out))
        folder.keep_fingerprints(announced)
        known = {party: sent.metadata for party, sent in announced.items()}
    else:
        _leave_out_late(known, transport, leave_out)
    found = detect(known)
    folder.tell(
        "compared",
        overlaps=len(found.overlaps),
        conflicts=len(found.conflicts),
        subjects=len(found.subjects),
    )
    return found


def settle_edits(
    folder: RoundFolder, transport: Transport, found: Detection, leave_out: LeaveOut
) -> SharedEdits:
    """Have the parties leave out what the round's policy decides.

    A round has one decision: a continued one takes that of its folder, and parties that are new
    processes follow it again.

    Args:
        folder: of the round; its settings have a policy.
        transport: reaches the parties.
        found: what their edits have in common.
        leave_out: is given parties that don't follow.

    Raises:
        UnknownNameError: when the party to prefer announced nothing.
    """
    decision = folder.decision or _decided(folder, found)
    prints = {p: own for p, own in found.fingerprints.items() if p in transport.parties}
    edits = {party: len(own) for party, own in prints.items()}
    kept = dict(edits)
    if decision.policy is not Policy.REPORT:
        kept = ask_to_follow(transport, folder.config, decision, prints, _as_unheard(leave_out))
        following = replace(found, fingerprints={party: prints[party] for party in kept})
        kept.update(dict.fromkeys(following.twins, 0))
    folder.tell("decided", policy=decision.policy.value, edits=edits, kept=kept)
    return SharedEdits(
        policy=decision.policy,
        overlaps=len(found.overlaps),
        conflicts=len(found.conflicts),
        subjects=len(found.subjects),
        edits=edits,
        kept=kept,
    )


def _as_unheard(leave_out: LeaveOut) -> Unheard:
    """Leave out whoever does not answer, whatever the stage."""
    return lambda party, _stage, failure: leave_out(party, failure)


def _leave_out_late(
    known: Mapping[str, ContributionMetadata], transport: Transport, leave_out: LeaveOut
) -> None:
    late = Failure("it came after the edits were compared; it waits for the next round")
    for party in transport.parties:
        if party not in known:
            leave_out(party, late)


def _decided(folder: RoundFolder, found: Detection) -> Decision:
    settings = folder.settings
    decision = decide(found, settings.policy or Policy.REPORT, settings.prefer)
    decision.save(folder.path / "decision.json")
    return decision
