"""Everything that crosses a wire or a file: the round, what parties send, and what comes of it.

Each message has ``to_bytes`` and ``from_bytes``, and ``save`` and ``load`` for files with the same
bytes. Nothing here needs a model.
"""

from collabedit.messages.contribution import Contribution, ContributionMetadata
from collabedit.messages.covariance import Covariance
from collabedit.messages.decision import Decision, Policy, parse_policy
from collabedit.messages.delta import Delta, DeltaMetadata
from collabedit.messages.exchange import Ready, Request, RequestKind
from collabedit.messages.fingerprint import Digest, Fingerprint
from collabedit.messages.round import RoundConfig, Schedule, parse_schedule
from collabedit.messages.secure import (
    Advert,
    Confirmation,
    MaskedSum,
    MaskedSumMetadata,
    SecureAggregation,
    Shares,
    SignedMessage,
    Unmasking,
)
from collabedit.messages.state import RoundState

__all__ = [
    "Advert",
    "Confirmation",
    "Contribution",
    "ContributionMetadata",
    "Covariance",
    "Decision",
    "Delta",
    "DeltaMetadata",
    "Digest",
    "Fingerprint",
    "MaskedSum",
    "MaskedSumMetadata",
    "Policy",
    "Ready",
    "Request",
    "RequestKind",
    "RoundConfig",
    "RoundState",
    "Schedule",
    "SecureAggregation",
    "Shares",
    "SignedMessage",
    "Unmasking",
    "parse_policy",
    "parse_schedule",
]
