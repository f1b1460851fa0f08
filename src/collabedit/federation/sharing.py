"""The coordinator's part before anything is measured: which edits are shared, and whose stay."""

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
    """Find what the parties' edits have in common, from the fingerprints that they announce.

    The announcements stay in the round's folder, so that a continued round compares the same ones.

    Args:
        folder: the round's folder.
        transport: reaches the parties.
        leave_out: called for parties that announce nothing usable, or came too late.
    """
    known = folder.fingerprints
    if known is None:
        announced = ask_fingerprints(transport, folder.config, _as_unheard(leave_out))
        folder.keep_fingerprints(announced)
        known = {party: sent.metadata for party, sent in announced.items()}
    else:
        _leave_out_late(known, transport, leave_out)
    detection = detect(known)
    folder.tell(
        "compared",
        overlaps=len(detection.overlaps),
        conflicts=len(detection.conflicts),
        subjects=len(detection.subjects),
    )
    return detection


def settle_edits(
    folder: RoundFolder, transport: Transport, detection: Detection, leave_out: LeaveOut
) -> SharedEdits:
    """Have the parties leave out what the round's policy decides.

    A round has only one decision: if it is continued, it takes the one in its folder, and parties
    whose process is new follow it again.

    Args:
        folder: the round's folder; its settings have a policy.
        transport: reaches the parties.
        detection: what their edits have in common.
        leave_out: called for parties that don't follow.

    Raises:
        UnknownNameError: when the party to prefer announced nothing.
    """
    decision = folder.decision or _decided(folder, detection)
    fingerprints = {
        party: prints
        for party, prints in detection.fingerprints.items()
        if party in transport.parties
    }
    edits = {party: len(prints) for party, prints in fingerprints.items()}
    kept = dict(edits)
    if decision.policy is not Policy.REPORT:
        unheard = _as_unheard(leave_out)
        kept = ask_to_follow(transport, folder.config, decision, fingerprints, unheard)
        following = replace(detection, fingerprints={party: fingerprints[party] for party in kept})
        kept.update(dict.fromkeys(following.twins, 0))
    folder.tell("decided", policy=decision.policy.value, edits=edits, kept=kept)
    return SharedEdits(
        policy=decision.policy,
        overlaps=len(detection.overlaps),
        conflicts=len(detection.conflicts),
        subjects=len(detection.subjects),
        edits=edits,
        kept=kept,
    )


def _as_unheard(leave_out: LeaveOut) -> Unheard:
    """Leave out whoever does not answer, whatever the stage."""
    return lambda party, _stage, failure: leave_out(party, failure)


def _leave_out_late(
    known: Mapping[str, ContributionMetadata], transport: Transport, leave_out: LeaveOut
) -> None:
    late = Failure("it joined after the edits were compared, so it waits for the next round")
    for party in transport.parties:
        if party not in known:
            leave_out(party, late)


def _decided(folder: RoundFolder, detection: Detection) -> Decision:
    settings = folder.settings
    decision = decide(detection, settings.policy or Policy.REPORT, settings.prefer)
    decision.save(folder.path / "decision.json")
    return decision
