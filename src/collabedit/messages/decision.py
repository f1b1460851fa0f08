"""The coordinator's decision about edits that several parties share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, Literal

from pydantic import NonNegativeInt

from collabedit.errors import RoundError
from collabedit.files import sha256_of_json
from collabedit.messages.codec import JsonMessage
from collabedit.messages.fingerprint import Digest, Fingerprint
from collabedit.names import enum_member

__all__ = ["Decision", "Policy", "identify", "parse_policy"]


class Policy(str, Enum):
    """Whose edit of a shared question is kept; all others are left out."""

    REPORT = "report"
    """Everyone's: nothing is left out."""

    FIRST = "first"
    """That of the first party, in the order given."""

    MAJORITY = "majority"
    """The most common target, from the first party that has it; ties go to the first party."""

    PREFER = "prefer"
    """That of a named party; if it has none, the first party's."""

    DROP = "drop"
    """Nobody's if targets differ; the first party's if they agree."""


def parse_policy(name: str) -> Policy:
    """A policy from its name.

    Raises:
        UnknownNameError: when there is none with that name.
    """
    return enum_member(Policy, name, "policy")


class Decision(JsonMessage):
    """Which edits each party leaves out; the coordinator's ``decision.json``.

    It contains indices rather than fingerprints, so that a party, which has the key, cannot use it
    to test guesses about the others.

    Attributes:
        policy: the policy applied.
        leave_out: indices in a party's sorted fingerprints, by the SHA-256 of all of them.
    """

    what: ClassVar[str] = "decision"
    error: ClassVar[type[RoundError]] = RoundError

    format: Literal["collabedit.decision"] = "collabedit.decision"
    version: Literal[1] = 1
    policy: Policy
    leave_out: dict[Digest, tuple[NonNegativeInt, ...]]

    def places(self, fingerprints: Sequence[Fingerprint]) -> tuple[int, ...]:
        """What a party leaves out, as indices in its sorted fingerprints.

        Raises:
            RoundError: when the decision is about other parties.
        """
        indices = self.leave_out.get(identify(fingerprints))
        if indices is None:
            raise RoundError(
                "the decision is not about these edits; contribute exactly as for "
                "'collabedit detect', with the same requests, key and --skip-known"
            )
        if any(index >= len(fingerprints) for index in indices):
            raise RoundError(f"the decision leaves out more than these {len(fingerprints)} edits")
        return indices


def identify(fingerprints: Sequence[Fingerprint]) -> str:
    """A party's name in a decision: the SHA-256 of its sorted fingerprints."""
    return sha256_of_json([(each.question, each.target) for each in sorted(fingerprints)])
