"""What a party decides for itself, in its own file."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from collabedit.errors import InputError, one_line
from collabedit.files import read_json

__all__ = ["SETTINGS", "MemberSettings"]

#: Environment variable with the path of a party's settings file; the party's own command sets it.
SETTINGS = "COLLABEDIT_PARTY_SETTINGS"


class MemberSettings(BaseModel):
    """What a party decides for itself, and no job can change.

    Attributes:
        requests: its private file of edits.
        model: where to find the model on this machine; by default, the round's name for it.
        out: folder for the deltas of accepted rounds.
        device: where to compute.
        skip_known: see :class:`collabedit.parties.Party`.
        skip_bad: skip malformed requests instead of stopping.
        trust_remote_code: run Python code that comes with the model.
        cache: keep targets between exchanges and processes.
        fingerprint_key: file of the key that all parties share; without it, the party takes part
            in no round that compares fingerprints.
        most_left_out: see :class:`collabedit.parties.Party`.
        identity: file of its key for secure aggregation; without it, the party takes part in no
            round that asks for secure aggregation, and with it in no other.
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
