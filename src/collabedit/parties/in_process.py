"""Secure aggregation with all parties in one process: the same protocol, with local keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from collabedit.errors import RoundError
from collabedit.messages import RoundConfig, SecureAggregation
from collabedit.parties.secret import stored_secret

if TYPE_CHECKING:
    from collabedit.privacy.secure import Identity, SecureParty

__all__ = ["parties_of", "secure_aggregation_of"]


def secure_aggregation_of(sizes: Sequence[int]) -> SecureAggregation:
    """Settings for a round in this process, in which all parties must stay.

    Args:
        sizes: number of edits of each party.

    Raises:
        RoundError: when there are fewer than two parties.
    """
    if len(sizes) < 2:
        raise RoundError(
            "secure aggregation needs two or more parties; one alone has no others to hide among"
        )
    return SecureAggregation(
        roster={identity.party: identity.public for identity in _identities(len(sizes))},
        threshold=len(sizes) // 2 + 1,
        max_edits=sum(sizes),
    )


def parties_of(config: RoundConfig) -> list[SecureParty] | None:
    """The parties' halves in a round that was opened here; ``None`` in a plain round.

    Raises:
        RoundError: when another user's process opened it.
    """
    if config.secure_aggregation is None:
        return None
    from collabedit.privacy.secure import SecureParty

    return [
        SecureParty(identity, config)
        for identity in _identities(len(config.secure_aggregation.roster))
    ]


def _identities(count: int) -> list[Identity]:
    """Keys derived from this user's secret, so that an interrupted run can reproduce them."""
    from collabedit.privacy.secure.keys import Identity, derive

    width, secret = len(str(count)), stored_secret()
    names = [f"party {number:0{width}}" for number in range(count)]
    return [Identity(name, derive(secret, "in process", name)) for name in names]
