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

__all__ = ["Ready", "Request", "RequestKind"]


class RequestKind(str, Enum):
    """What a party is asked for."""

    PREPARE = "prepare"
    """To settle its edits and find their targets on the unedited model; the answer is ``Ready``."""

    CONTRIBUTE = "contribute"
    """For the statistics of the next layers; the answer is a ``Contribution``."""

    EVALUATE = "evaluate"
    """To try the complete delta on its own edits; the answer is an ``Evaluation``."""

    ACCEPT = "accept"
    """To keep the complete delta; the answer is ``Settled``."""

    ROLL_BACK = "roll back"
    """To forget the delta and stay with the model as it was; the answer is ``Settled``."""


class _RequestMetadata(Header):
    format: Literal["collabedit.request"] = "collabedit.request"
    version: Literal[1] = 1
    kind: RequestKind
    delta: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Request(TensorMessage):
    """A coordinator's question, the same for all parties of an exchange.

    Attributes:
        kind: what is asked for.
        delta: what the round has merged so far.
    """

    what: ClassVar[str] = "request"

    kind: RequestKind
    delta: Delta

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The arrays of the delta, and its metadata beside the kind."""
        tensors, about = self.delta.pack()
        return tensors, _RequestMetadata(kind=self.kind, delta=about).model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read a request, trusting nothing in it.

        Raises:
            RoundError: when anything in it is malformed.
        """
        about = parse_header(_RequestMetadata, metadata, source, RoundError)
        return cls(about.kind, Delta.unpack(tensors, about.delta, source))


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
