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

#: Facts are compared by keyed fingerprints, which ignore case, punctuation and white space.
#: Nobody else has to recognise them, so each process has its own key.
_KEY = secrets.token_bytes(32)


@dataclass
class Draft:
    """A row of the page.

    Attributes:
        prompt: with ``{}`` for the subject, or with the subject spelled out.
        subject: what the fact is about.
        target: the new object.
        others: further subjects, comma-separated, about which the same prompt must give the same
            answer as before.
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
        """What is still missing."""
        named = {
            "a prompt": self.prompt,
            "its subject": self.subject,
            "the new object": self.target,
        }
        return [name for name, text in named.items() if not text.strip()]

    def record(self) -> Record:
        """The row as a record, with neighbours made from the other subjects.

        Raises:
            RequestError: when it is unusable.
        """
        fields = {"prompt": self.prompt, "subject": self.subject, "target": self.target}
        record = parse_record(fields, 0, "edit")
        subjects = [name.strip() for name in re.split("[,;、]", self.others) if name.strip()]
        neighbours = tuple(record.request.prompt.replace("{}", name) for name in subjects)
        return replace(record, neighborhood_prompts=neighbours)


@dataclass(frozen=True)
class Note:
    """A note about an edit.

    Attributes:
        kind: ``reads`` if it is good, ``repeats`` if another says the same, ``incomplete`` while
            something is missing, ``bad`` if it is unusable or contradicts another.
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
        """Why the edits can't be made; ``None`` if they can."""
        notes = [*self.notes.values(), *self.loaded.values()]
        count = sum(note.kind in ("bad", "incomplete") for note in notes)
        if count:
            return f"{count} edit{' needs' if count == 1 else 's need'} your attention"
        return None if self.records else "Type an edit, or load a file of edits"


class _Facts:
    """The facts so far, by question."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[Fingerprint, str, str]] = {}

    def compare(self, record: Record, name: str) -> Note | None:
        """What a further fact has in common with those before it."""
        print_ = fingerprint(record.request, _KEY)
        target = record.request.target_new
        if print_.question not in self._first:
            self._first[print_.question] = print_, name, target
            return None
        first, other, said = self._first[print_.question]
        if first.target == print_.target:
            return Note("repeats", f"Says the same as {other}")
        return Note("bad", f"Contradicts {other}, which says “{said}”; keep one of them")


def review(drafts: Sequence[Draft], loaded: Sequence[Record] = ()) -> Review:
    """Read rows, and compare them with each other and with the records of files.

    Args:
        drafts: the rows.
        loaded: records of files, which were checked when they were read.
    """
    facts, records = _Facts(), list(loaded)
    of_files, notes = {}, {}
    for index, record in enumerate(loaded):
        note = facts.compare(record, f"record {index + 1} of the file")
        if note is not None:
            of_files[index] = note
    for row, draft in enumerate(drafts):
        if draft.blank:
            continue
        record_or_note = _read(draft)
        if isinstance(record_or_note, Note):
            notes[row] = record_or_note
            continue
        records.append(record_or_note)
        note = facts.compare(record_or_note, f"edit {row + 1}")
        notes[row] = note or Note("reads", _sentence(record_or_note))
    return Review(tuple(map(_numbered, range(len(records)), records)), notes, of_files)


def _read(draft: Draft) -> Record | Note:
    if draft.missing:
        return Note("incomplete", f"Still missing: {', '.join(draft.missing)}")
    try:
        return draft.record()
    except RequestError as error:
        reason = str(error).removeprefix("edit, record 0: ")
        return Note("bad", reason[:1].upper() + reason[1:])


def _sentence(record: Record) -> str:
    request = record.request
    return f"Reads: {join(request.text, request.target_new)}"


def _numbered(index: int, record: Record) -> Record:
    return replace(record, request=replace(record.request, case_id=index))
