"""What a coordinator asks of a party, and how a party says that it is ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from collabedit.errors import RoundError
from collabedit.messages.codec import JsonMessage, TensorMessage
from collabedit.messages.delta import Delta
from collabedit.messages.metadata import Header, parse_header
from collabedit.messages.normaliser import (
    Normaliser,
    optional_normaliser,
    packed_normaliser,
    without_normaliser,
)

__all__ = ["Ready", "Request", "RequestKind"]


class RequestKind(str, Enum):
    """What a party is asked for."""

    PREPARE = "prepare"
    """To settle its edits and find their targets on the unedited model; the answer is ``Ready``."""

    SUMMARISE = "summarise"
    """For the mean and deviation of its features; the answer is a ``Normaliser``."""

    CONTRIBUTE = "contribute"
    """For the statistics of the next layers; the answer is a ``Contribution``."""


class _RequestMetadata(Header):
    format: Literal["collabedit.request"] = "collabedit.request"
    version: Literal[1] = 1
    kind: RequestKind
    delta: dict[str, Any]
    normaliser: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Request(TensorMessage):
    """A coordinator's question, the same for all parties of an exchange.

    Attributes:
        kind: what is asked for.
        delta: what the round has merged so far.
        normaliser: of all parties' features, where the editor normalises them.
    """

    what: ClassVar[str] = "request"

    kind: RequestKind
    delta: Delta
    normaliser: Normaliser | None = None

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The arrays of the delta and the normaliser, and their metadata beside the kind."""
        tensors, about = self.delta.pack()
        arrays, scale = packed_normaliser(self.normaliser)
        metadata = _RequestMetadata(kind=self.kind, delta=about, normaliser=scale)
        return tensors | arrays, metadata.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read a request, trusting nothing in it.

        Raises:
            RoundError: when anything in it is malformed.
        """
        about = parse_header(_RequestMetadata, metadata, source, RoundError)
        changes, scale = without_normaliser(tensors)
        return cls(
            about.kind,
            Delta.unpack(changes, about.delta, source),
            optional_normaliser(scale, about.normaliser, source),
        )


class Ready(JsonMessage):
    """A party's word that it can contribute.

    Attributes:
        round_sha256: the round.
        edits: number of edits that it takes part with.
        skipped: number of edits that it skipped, since the model knows them.
    """

    what: ClassVar[str] = "reply"
    error: ClassVar[type[RoundError]] = RoundError

    format: Literal["collabedit.ready"] = "collabedit.ready"
    version: Literal[1] = 1
    round_sha256: str
    edits: int = Field(ge=1)
    skipped: int = Field(default=0, ge=0)
