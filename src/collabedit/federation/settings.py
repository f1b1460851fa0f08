"""What a party decides for itself, in a file of its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from collabedit.errors import InputError, one_line
from collabedit.files import read_json

__all__ = ["SETTINGS", "MemberSettings"]

#: Environment variable with the file of a party's settings, which its own command sets.
SETTINGS = "COLLABEDIT_PARTY_SETTINGS"


class MemberSettings(BaseModel):
    """What a party decides for itself; no job can.

    Attributes:
        requests: its private file.
        model: where the model lies here; as the round calls it where not given.
        out: folder for the deltas of accepted rounds.
        device: where to compute.
        skip_known: see :class:`collabedit.parties.Party`.
        skip_bad: go on without requests that cannot be used.
        trust_remote_code: run Python code that comes with the model.
        cache: keep targets between exchanges and processes.
        fingerprint_key: file of the key that all parties share; without it, it takes part in no
            round that compares fingerprints.
        most_left_out: see :class:`collabedit.parties.Party`.
        identity: file of its key for secure aggregation; without it, it takes part in no round
            that asks for that, and with it in no other.
        roster: file of the parties' public keys as it knows them; a round with others is refused.
        sum_again: confirm sums of edits that were summed with other parties before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: Path
    model: str | None = None
    out: Path
    device: str | None = None
    skip_known: float | None = None
    skip_bad: bool = False
    trust_remote_code: bool = False
    cache: bool = True
    fingerprint_key: Path | None = None
    most_left_out: float = Field(default=0.5, ge=0, le=1)
    identity: Path | None = None
    roster: Path | None = None
    sum_again: bool = False

    @classmethod
    def load(cls, path: Path) -> MemberSettings:
        """Read the file that ``collabedit federation party join`` writes.

        Raises:
            InputError: when it is malformed.
        """
        try:
            return cls.model_validate(read_json(path, "party's settings"))
        except ValidationError as error:
            raise InputError(f"{path}: {one_line(error)}") from None
