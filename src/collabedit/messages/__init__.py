"""Everything that crosses a wire or is stored in a file: rounds, contributions and deltas.

Each message has ``to_bytes`` and ``from_bytes``, and ``save`` and ``load`` for files with the same
bytes. Nothing here needs a model.
"""

from collabedit.editors import Schedule, parse_schedule
from collabedit.messages.contribution import Contribution, ContributionMetadata
from collabedit.messages.covariance import Covariance
from collabedit.messages.decision import Decision, Policy, parse_policy
from collabedit.messages.delta import Delta, DeltaMetadata
from collabedit.messages.evaluation import Evaluation, Hits, Settled
from collabedit.messages.exchange import SUMMATION_STEPS, Ready, Request, RequestKind
from collabedit.messages.fingerprint import Digest, Fingerprint
from collabedit.messages.limits import Bounds, Gate
from collabedit.messages.normaliser import Normaliser
from collabedit.messages.opening import Joined, Opening
from collabedit.messages.round import RoundConfig
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
    "SUMMATION_STEPS",
    "Advert",
    "Bounds",
    "Confirmation",
    "Contribution",
    "ContributionMetadata",
    "Covariance",
    "Decision",
    "Delta",
    "DeltaMetadata",
    "Digest",
    "Evaluation",
    "Fingerprint",
    "Gate",
    "Hits",
    "Joined",
    "MaskedSum",
    "MaskedSumMetadata",
    "Normaliser",
    "Opening",
    "Policy",
    "Ready",
    "Request",
    "RequestKind",
    "RoundConfig",
    "RoundState",
    "Schedule",
    "SecureAggregation",
    "Settled",
    "Shares",
    "SignedMessage",
    "Unmasking",
    "parse_policy",
    "parse_schedule",
]
