"""Whom a party's edits were summed with: two sums of the same edits expose who is in one only.

Under secure aggregation a single sum hides who holds what. But the difference of two sums, of all
parties and of all but one, is that one's statistics, whatever the masks were. Only the parties in
both sums can prevent it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, RootModel, ValidationError

from collabedit.errors import InputError, RoundError
from collabedit.files import cache_directory, read_json, write_private_text
from collabedit.parties.secret import stored_secret
from collabedit.requests import EditRequest

__all__ = ["Companions"]


class _Sum(BaseModel):
    """Digests of a party's edits, and the parties whose edits they were summed with."""

    edits: list[str]
    parties: list[str]


class _Notes(RootModel[dict[str, _Sum]]):
    """By the hash of the round."""


class Companions:
    """A party's notes of its sums, in a file that only this user can read; it holds no text.

    Args:
        party: its name.
        path: of the file; in the user's cache by default.
    """

    def __init__(self, party: str, path: Path | None = None) -> None:
        self._party = party
        self._path = path or cache_directory("secure") / f"{self._digest(party)}.sums.json"

    def join(
        self,
        round_sha256: str,
        edits: Sequence[EditRequest],
        parties: Sequence[str],
        *,
        again: bool = False,
    ) -> None:
        """Note a sum that the party is about to confirm.

        Args:
            round_sha256: the round.
            edits: the party's.
            parties: all parties in the sum, including itself.
            again: allow it even if some of the edits were summed with others.

        Raises:
            RoundError: when some of the edits were summed with other parties in another round. It
                says nothing of the edits, since the coordinator reads it.
            InputError: when the notes are damaged, or can't be written.
        """
        notes = self._load()
        named = {self._digest(edit.prompt, edit.subject, edit.target_new) for edit in edits}
        others = {
            party
            for sha256, known in notes.root.items()
            if sha256 != round_sha256 and named & set(known.edits)
            for party in set(known.parties) ^ set(parties)
        }
        if others and not again:
            raise RoundError(
                f"{self._party} gave edits of this round to an earlier sum, and {_listed(others)} "
                f"{'is' if len(others) == 1 else 'are'} in only one of the two, so the difference "
                "would show those statistics; to accept that, take part with --sum-again"
            )
        notes.root[round_sha256] = _Sum(edits=sorted(named), parties=sorted(parties))
        write_private_text(self._path, notes.model_dump_json())

    def _load(self) -> _Notes:
        if not self._path.exists():
            return _Notes({})
        try:
            return _Notes.model_validate(read_json(self._path, "notes of sums"))
        except ValidationError:
            raise InputError(
                f"{self._path}: damaged, so nobody knows what was summed with whom; remove it if "
                "you accept that"
            ) from None

    def _digest(self, *words: str) -> str:
        """HMAC-SHA256, so that whoever reads the file can't test guesses."""
        return hmac.new(stored_secret(), json.dumps(words).encode(), "sha256").hexdigest()


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
