"""Fingerprints as they travel; :mod:`collabedit.privacy.fingerprints` computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

__all__ = ["Digest", "Fingerprint"]

#: SHA-256 in lower-case hexadecimal digits.
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, order=True)
class Fingerprint:
    """An edit's question and answer, unreadable without the key.

    Attributes:
        question: of the subject and the relation; equal for edits of the same fact.
        target: of the question and the new object; equal for edits with the same object.
        subject: of the subject alone; equal for edits of the same subject. Absent in version 0.1.
    """

    question: Digest
    target: Digest
    subject: Digest | Literal[""] = ""
