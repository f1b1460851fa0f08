"""Requests of a coordinator, and a party's readiness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from collabedit.errors import RoundError
from collabedit.messages.codec import SHORT, JsonMessage, TensorMessage
from collabedit.messages.decision import Decision
from collabedit.messages.delta import Delta
from collabedit.messages.metadata import Header, parse_header
from collabedit.messages.normaliser import (
    Normaliser,
    optional_normaliser,
    packed_normaliser,
    without_normaliser,
)

__all__ = ["SUMMATION_STEPS", "Ready", "Request", "RequestKind"]

_SKETCH = "/sketch"


class RequestKind(str, Enum):
    """What a coordinator asks for."""

    ANNOUNCE = "announce"
    """For fingerprints of its edits, before anything is measured; the answer is a
    ``Contribution`` without statistics."""

    DECIDE = "decide"
    """To leave out the edits that the decision names; the answer is ``Ready``."""

    PREPARE = "prepare"
    """To fix its edits and find their targets on the unedited model; the answer is ``Ready``."""

    SUMMARISE = "summarise"
    """For the mean and deviation of its features; the answer is a ``Normaliser``."""

    CONTRIBUTE = "contribute"
    """For the statistics of the next layers; the answer is a ``Contribution``."""

    ADVERTISE = "advertise"
    """Secure aggregation, the first of five steps: for keys of a new summation; an ``Advert``."""

    SHARE = "share"
    """For sealed shares of the secrets behind the masks; the answer is ``Shares``."""

    MASK = "mask"
    """For the statistics of the next layers under masks; the answer is a ``MaskedSum``."""

    CONFIRM = "confirm"
    """For a signature of who is in the sum; the answer is a ``Confirmation``."""

    UNMASK = "unmask"
    """For the shares that take the masks off the sum; the answer is an ``Unmasking``."""

    EVALUATE = "evaluate"
    """To try the complete delta on its own edits; the answer is an ``Evaluation``."""

    ACCEPT = "accept"
    """To keep the complete delta; the answer is ``Settled``."""

    ROLL_BACK = "roll back"
    """To discard the delta and keep the model as it was; the answer is ``Settled``."""


#: The requests of one summation under secure aggregation, in order.
SUMMATION_STEPS = (
    RequestKind.ADVERTISE,
    RequestKind.SHARE,
    RequestKind.MASK,
    RequestKind.CONFIRM,
    RequestKind.UNMASK,
)


class _RequestMetadata(Header):
    format: Literal["collabedit.request"] = "collabedit.request"
    version: Literal[1] = 1
    kind: RequestKind
    delta: dict[str, Any]
    enclosed: tuple[dict[str, Any], ...] = ()
    normaliser: dict[str, Any] | None = None
    decision: Decision | None = None


@dataclass(frozen=True, eq=False)
class Request(TensorMessage):
    """A coordinator's request, the same for all parties of an exchange.

    Attributes:
        kind: what is asked for.
        delta: the round's delta so far.
        enclosed: under secure aggregation, the parties' messages of the step before.
        sketches: under secure aggregation, by weight name, ``S [d_in, m]`` of the sketched form.
        normaliser: of all parties' features, if the editor normalises them.
        decision: about edits that parties share, which they are to follow.
    """

    what: ClassVar[str] = "request"

    kind: RequestKind
    delta: Delta
    enclosed: tuple[dict[str, Any], ...] = ()
    sketches: Mapping[str, Tensor] = field(default_factory=dict)
    normaliser: Normaliser | None = None
    decision: Decision | None = None

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All arrays, and the kind with their metadata."""
        tensors, about = self.delta.pack()
        tensors |= {f"{name}{_SKETCH}": sketch for name, sketch in self.sketches.items()}
        arrays, scale = packed_normaliser(self.normaliser)
        header = _RequestMetadata(
            kind=self.kind,
            delta=about,
            enclosed=self.enclosed,
            normaliser=scale,
            decision=self.decision,
        )
        return tensors | arrays, header.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read an untrusted request.

        Raises:
            RoundError: when anything in it is malformed.
        """
        about = parse_header(_RequestMetadata, metadata, source, RoundError)
        rest, scale = without_normaliser(tensors)
        arrays = {name: value for name, value in rest.items() if not name.endswith(_SKETCH)}
        sketches = {
            array.removesuffix(_SKETCH): _sketch(rest[array], f"{source}: {array}")
            for array in rest.keys() - arrays.keys()
        }
        delta = Delta.unpack(arrays, about.delta, source)
        normaliser = optional_normaliser(scale, about.normaliser, source)
        return cls(about.kind, delta, about.enclosed, sketches, normaliser, about.decision)


def _sketch(value: Tensor, name: str) -> Tensor:
    if value.ndim != 2 or value.dtype != torch.float32 or not torch.isfinite(value).all():
        raise RoundError(f"{name} must be a finite float32 matrix")
    return value


class Ready(JsonMessage):
    """A party's statement that it can contribute.

    Attributes:
        round_sha256: the round.
        edits: number of edits that it takes part with; 0 under secure aggregation, where it is
            private.
        skipped: number of edits that it skipped because the model knows them.
    """

    what: ClassVar[str] = "reply"
    error: ClassVar[type[RoundError]] = RoundError
    most_bytes: ClassVar[int | None] = SHORT

    format: Literal["collabedit.ready"] = "collabedit.ready"
    version: Literal[1] = 1
    round_sha256: str
    edits: int = Field(ge=0)
    skipped: int = Field(default=0, ge=0)
