"""Edits as they are typed: how they read, and which repeat or contradict each other."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from collabedit.errors import RequestError
from collabedit.messages import Fingerprint
from collabedit.privacy import fingerprint
from collabedit.requests import Record, join, parse_record

__all__ = ["Draft", "Note", "Review", "review"]

#: Facts are compared by keyed fingerprints, which see through case, punctuation and white space.
#: Nobody else has to recognise these, so the key is this process's own.
_KEY = secrets.token_bytes(32)


@dataclass
class Draft:
    """A row of the page.

    Attributes:
        prompt: with ``{}`` for the subject, or with the subject spelled out.
        subject: what the fact is about.
        target: the new object.
        others: further subjects, separated by commas, of which the same prompt must say what it
            said before.
    """

    prompt: str = ""
    subject: str = ""
    target: str = ""
    others: str = ""

    @property
    def blank(self) -> bool:
        """Whether nothing has been typed."""
        return not (self.prompt.strip() or self.subject.strip() or self.target.strip())

    @property
    def missing(self) -> list[str]:
        """What remains to be typed."""
        named = {
            "a prompt": self.prompt,
            "its subject": self.subject,
            "the new object": self.target,
        }
        return [name for name, text in named.items() if not text.strip()]

    def record(self) -> Record:
        """The row as a record, its neighbours from the other subjects.

        Raises:
            RequestError: when it cannot be used.
        """
        fields = {"prompt": self.prompt, "subject": self.subject, "target": self.target}
        found = parse_record(fields, 0, "edit")
        subjects = [name.strip() for name in re.split("[,;、]", self.others) if name.strip()]
        asked = tuple(found.request.prompt.replace("{}", name) for name in subjects)
        return replace(found, neighborhood_prompts=asked)


@dataclass(frozen=True)
class Note:
    """A note about an edit.

    Attributes:
        kind: ``reads`` where it is good, ``repeats`` where another says the same, ``incomplete``
            while something is missing, ``bad`` where it cannot be used or contradicts another.
        text: one line.
    """

    kind: Literal["reads", "repeats", "incomplete", "bad"]
    text: str


@dataclass(frozen=True)
class Review:
    """All edits of the page.

    Attributes:
        records: the usable ones, numbered in order, those from files first.
        notes: by the index of a row; blank rows have none.
        loaded: by the index of a file's record, a note about it, if any.
    """

    records: tuple[Record, ...] = ()
    notes: Mapping[int, Note] = field(default_factory=dict)
    loaded: Mapping[int, Note] = field(default_factory=dict)

    @property
    def problem(self) -> str | None:
        """Why the edits cannot be made, or ``None``."""
        notes = [*self.notes.values(), *self.loaded.values()]
        count = sum(note.kind in ("bad", "incomplete") for note in notes)
        if count:
            return f"{count} edit{' needs' if count == 1 else 's need'} your attention"
        return None if self.records else "Type an edit, or load a file of them"


class _Seen:
    """The facts so far, by question."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[Fingerprint, str, str]] = {}

    def compare(self, record: Record, name: str) -> Note | None:
        """What a further fact has in common with those before it."""
        own = fingerprint(record.request, _KEY)
        target = record.request.target_new
        if own.question not in self._first:
            self._first[own.question] = own, name, target
            return None
        first, other, said = self._first[own.question]
        if first.target == own.target:
            return Note("repeats", f"Says the same as {other}")
        return Note("bad", f"Contradicts {other}, which says “{said}”; keep one of them")


def review(drafts: Sequence[Draft], loaded: Sequence[Record] = ()) -> Review:
    """Read rows, and compare them with each other and with what files gave.

    Args:
        drafts: the rows.
        loaded: records of files, which were checked when they were read.
    """
    seen, records = _Seen(), list(loaded)
    of_files, notes = {}, {}
    for place, record in enumerate(loaded):
        found = seen.compare(record, f"record {place + 1} of the file")
        if found is not None:
            of_files[place] = found
    for place, draft in enumerate(drafts):
        if draft.blank:
            continue
        record_or_note = _read(draft)
        if isinstance(record_or_note, Note):
            notes[place] = record_or_note
            continue
        records.append(record_or_note)
        found = seen.compare(record_or_note, f"edit {place + 1}")
        notes[place] = found or Note("reads", _sentence(record_or_note))
    return Review(tuple(map(_numbered, range(len(records)), records)), notes, of_files)


def _read(draft: Draft) -> Record | Note:
    if draft.missing:
        return Note("incomplete", f"Still to type: {', '.join(draft.missing)}")
    try:
        return draft.record()
    except RequestError as error:
        reason = str(error).removeprefix("edit, record 0: ")
        return Note("bad", reason[:1].upper() + reason[1:])


def _sentence(record: Record) -> str:
    request = record.request
    return f"Reads: {join(request.text, request.target_new)}"


def _numbered(place: int, record: Record) -> Record:
    return replace(record, request=replace(record.request, case_id=place))
