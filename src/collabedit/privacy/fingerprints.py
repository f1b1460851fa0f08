"""Keyed fingerprints of edits: parties find what they have in common without revealing a fact.

A fingerprint is HMAC-SHA256 under a key that the parties share and the coordinator does not have.
The same edit has the same fingerprint everywhere; without the key nobody can test a guess.
"""

from __future__ import annotations

import hmac
import json
import os
import unicodedata
from pathlib import Path

from collabedit.errors import InputError
from collabedit.messages import Fingerprint
from collabedit.requests import EditRequest

__all__ = [
    "checked_key",
    "fingerprint",
    "key_id",
    "load_key",
    "normalise",
]

MIN_KEY_BYTES = 16

#: Marks that surround a name without being part of it; "C#", "C++" and "-5" keep theirs.
_MARKS = frozenset(".,:;!?\"'¿¡、。")
_BRACKETS_AND_QUOTES = ("Ps", "Pe", "Pi", "Pf")


def fingerprint(request: EditRequest, key: bytes) -> Fingerprint:
    """Fingerprint an edit.

    The question is the subject and the relation's id, or the prompt if no id is known: differently
    worded prompts match only by their id. Texts are compared after :func:`normalise`.
    """
    question = _digest(key, "collabedit.question", *_question(request))
    answer = normalise(request.target_new)
    return Fingerprint(
        question,
        _digest(key, "collabedit.target", question, answer),
        _digest(key, "collabedit.subject", normalise(request.subject)),
    )


def key_id(key: bytes) -> str:
    """An identifier that shows whether two parties used the same key, and nothing else about it."""
    return _digest(key, "collabedit.key")


def load_key(path: str | os.PathLike[str]) -> bytes:
    """Read the parties' shared key; surrounding white space is ignored.

    Raises:
        InputError: when the file cannot be read or the key is too short.
    """
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise InputError(f"cannot read the key file {path}: {error.strerror or error}") from error
    return checked_key(key, str(path))


def checked_key(key: bytes, source: str) -> bytes:
    """The key, once it is known to be too long to guess.

    Args:
        key: the key.
        source: its name in messages.

    Raises:
        InputError: when it is too short.
    """
    if len(key) < MIN_KEY_BYTES:
        raise InputError(
            f"{source}: a fingerprint key needs at least {MIN_KEY_BYTES} bytes, found {len(key)}; "
            "make one with: openssl rand -hex 32 > shared.key"
        )
    return key


def normalise(text: str) -> str:
    """A text without spelling variations.

    Compatible characters are unified (NFKC), case and surrounding punctuation dropped, and white
    space collapsed. A text of punctuation alone keeps it.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    marks = "".join(mark for mark in set(words) if _surrounds(mark))
    return words.strip(marks + " ") or words


def _surrounds(character: str) -> bool:
    return character in _MARKS or unicodedata.category(character) in _BRACKETS_AND_QUOTES


def _question(request: EditRequest) -> tuple[str, ...]:
    subject = normalise(request.subject)
    if request.relation_id is not None:
        return "relation", subject, normalise(request.relation_id)
    # In two parts, since "{}" would count as punctuation but its position matters.
    before, _, after = request.prompt.partition("{}")
    return "prompt", subject, normalise(before), normalise(after)


def _digest(key: bytes, *parts: str) -> str:
    return hmac.new(key, json.dumps(parts).encode(), "sha256").hexdigest()
