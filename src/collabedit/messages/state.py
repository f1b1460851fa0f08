"""The state between rounds: the changes of finished rounds and the keys they wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from collabedit.algebra import LowRankUpdate
from collabedit.errors import RoundError
from collabedit.files import sha256_of_json
from collabedit.messages.codec import TensorMessage
from collabedit.messages.delta import low_rank_updates, packed_updates
from collabedit.messages.metadata import Header, parse_header
from collabedit.messages.normaliser import (
    Normaliser,
    optional_normaliser,
    packed_normaliser,
    without_normaliser,
)

__all__ = ["RoundState"]

_KEYS = "/keys"


class _StateMetadata(Header):
    earlier: ClassVar[Mapping[tuple[str, int], Mapping[str, str]]] = {("collabedit.state", 1): {}}

    format: Literal["collabedit.state"] = "collabedit.state"
    version: Literal[2] = 2
    finished: int = Field(ge=0, strict=True)
    base_sha256: dict[str, str] = Field(default_factory=dict)
    normaliser: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class RoundState(TensorMessage):
    """The state between two rounds.

    In a file: ``<weight>/B``, ``<weight>/A`` and ``<weight>/keys [r, d_in]``, float64.

    Attributes:
        finished: number of finished rounds.
        changes: by weight name, all changes since the unedited model.
        keys: by weight name, the pooled key factors ``F [d_in, r]`` of all finished rounds, which
            the dynamic covariance protects; empty for methods that do not pool statistics.
        base_sha256: SHA-256 by weight name of the edited weights before the first round; empty
            if it was not recorded.
        normaliser: of the features of all finished rounds, if the editor normalises them.
    """

    what: ClassVar[str] = "state"

    finished: int = 0
    changes: Mapping[str, LowRankUpdate] = field(default_factory=dict)
    keys: Mapping[str, Tensor] = field(default_factory=dict)
    base_sha256: Mapping[str, str] = field(default_factory=dict)
    normaliser: Normaliser | None = None

    @property
    def sha256(self) -> str:
        """Identifies the state; empty before the first round."""
        if not self.finished:
            return ""
        changes = {name: change.sha256 for name, change in self.changes.items()}
        return sha256_of_json([self.finished, changes])

    def after(
        self,
        changes: Mapping[str, LowRankUpdate],
        keys: Mapping[str, Tensor],
        normaliser: Normaliser | None = None,
    ) -> RoundState:
        """The state after one more round.

        Args:
            changes: what the round merged, by weight name.
            keys: its pooled key factors by weight name; may be empty.
            normaliser: of the features of this and all earlier rounds.
        """
        summed = {
            name: LowRankUpdate.sum([self.changes[name], change])
            if name in self.changes
            else change
            for name, change in changes.items()
        }
        pooled = {
            name: torch.cat([self.keys[name], added], dim=1) if name in self.keys else added
            for name, added in keys.items()
        }
        return RoundState(
            self.finished + 1,
            {**self.changes, **summed},
            {**self.keys, **pooled},
            self.base_sha256,
            normaliser or self.normaliser,
        )

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The changes, the keys and the metadata."""
        tensors = packed_updates(self.changes)
        tensors |= {f"{name}{_KEYS}": keys.T for name, keys in self.keys.items()}
        arrays, scale = packed_normaliser(self.normaliser)
        about = _StateMetadata(
            finished=self.finished, base_sha256=dict(self.base_sha256), normaliser=scale
        )
        return tensors | arrays, about.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read an untrusted state.

        Raises:
            RoundError: when it is not a state, or an array in it is malformed.
        """
        about = parse_header(_StateMetadata, metadata, source, RoundError)
        arrays, scale = without_normaliser(tensors)
        rest = {name: value for name, value in arrays.items() if not name.endswith(_KEYS)}
        changes = low_rank_updates(rest, source)
        keys = {}
        for array in arrays.keys() - rest.keys():
            name, value = array.removesuffix(_KEYS), arrays[array]
            fits = name in changes and value.ndim == 2 and value.shape[1] == changes[name].shape[1]
            if not fits or not torch.isfinite(value).all():
                raise RoundError(f"{source}: the keys of {name} are malformed")
            keys[name] = value.T.double()
        normaliser = optional_normaliser(scale, about.normaliser, source)
        return cls(about.finished, changes, keys, about.base_sha256, normaliser)
