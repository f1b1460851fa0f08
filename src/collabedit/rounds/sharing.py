"""Edits that several parties hold, found and settled over a transport before anything is measured.

The same two steps as by files: parties send fingerprints of their edits alone, and then leave out
what the coordinator decides. :mod:`collabedit.privacy` compares and decides in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from collabedit.errors import ContributionError, RoundError
from collabedit.messages import (
    Contribution,
    Decision,
    Delta,
    Fingerprint,
    Ready,
    Request,
    RequestKind,
    RoundConfig,
)
from collabedit.rounds.asking import Unheard, ask
from collabedit.rounds.transport import Failure, Transport

__all__ = ["ask_fingerprints", "ask_to_follow"]


def ask_fingerprints(
    transport: Transport, config: RoundConfig, unheard: Unheard
) -> dict[str, Contribution]:
    """Have all parties announce fingerprints of their edits.

    Fingerprints can be compared only under one key. If keys differ, the most common one counts (the
    first party's in a tie), and parties with another are reported as unheard.

    Args:
        transport: reaches the parties.
        config: the round.
        unheard: called for parties whose fingerprints are unusable, with the reason.

    Returns:
        By party, in the order of their names, contributions without statistics, for
        :func:`collabedit.privacy.detect`.
    """
    request = Request(RequestKind.ANNOUNCE, Delta.empty(config))
    read = partial(_announcement, config)
    announced = ask(transport, request, sorted(transport.parties), read, unheard)
    keys = Counter(sent.metadata.fingerprint_key_id for sent in announced.values())
    usual = keys.most_common(1)[0][0] if keys else ""
    for party in [p for p, sent in announced.items() if sent.metadata.fingerprint_key_id != usual]:
        del announced[party]
        reason = "its fingerprints are under another key than the others'; all must use one key"
        unheard(party, RequestKind.ANNOUNCE.value, Failure(reason))
    return announced


def ask_to_follow(
    transport: Transport,
    config: RoundConfig,
    decision: Decision,
    fingerprints: Mapping[str, Sequence[Fingerprint]],
    unheard: Unheard,
) -> dict[str, int]:
    """Have the parties leave out what a decision names.

    Args:
        transport: reaches the parties.
        config: the round.
        decision: what to leave out.
        fingerprints: by party, what it announced; those that announced nothing are not asked.
        unheard: called for parties that don't follow, with the reason.

    Returns:
        By party, how many edits it keeps, which may be none.
    """
    parties = [party for party in sorted(transport.parties) if party in fingerprints]
    request = Request(RequestKind.DECIDE, Delta.empty(config), decision=decision)

    def followed(party: str, reply: bytes) -> int:
        ready = Ready.from_bytes(reply, party)
        prints = fingerprints[party]
        kept = len(prints) - len(decision.places(prints))
        if ready.round_sha256 != config.sha256:
            raise RoundError("it followed a decision of another round", party=party)
        if ready.edits != kept:
            raise RoundError(
                f"it keeps {ready.edits} edits, but the decision leaves it {kept}", party=party
            )
        return kept

    return ask(transport, request, parties, followed, unheard)


def _announcement(config: RoundConfig, party: str, reply: bytes) -> Contribution:
    sent = Contribution.from_bytes(reply, party)
    sent.check_announcement(config)
    if sent.metadata.party not in ("", party):
        raise ContributionError(f"it calls itself {sent.metadata.party!r}", party=party)
    if config.bounds is not None:
        config.bounds.check_edits(party, sent.metadata.edits)
    return sent
