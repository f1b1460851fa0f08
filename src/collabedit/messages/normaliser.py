"""The scale of the parties' features, and the pooled normaliser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from collabedit.errors import RoundError
from collabedit.messages.codec import TensorMessage
from collabedit.messages.metadata import Header, parse_header

__all__ = ["Normaliser", "optional_normaliser", "packed_normaliser", "without_normaliser"]

#: Added to a deviation before dividing by it, as the official code of UltraEdit does.
_LEAST_DEVIATION = torch.finfo(torch.float32).eps

#: Prefix of its arrays' names in a message with other arrays.
_PREFIX = "normaliser/"


class _NormaliserMetadata(Header):
    format: Literal["collabedit.normaliser"] = "collabedit.normaliser"
    version: Literal[1] = 1
    round_sha256: str
    count: int = Field(ge=1, le=1 << 53, strict=True)


@dataclass(frozen=True, eq=False)
class Normaliser(TensorMessage):
    """Mean and deviation of features, from sums that add up over parties.

    UltraEdit normalises its features over all edits so far (Gu et al., 2025, section 3.3). Its
    code updates a running deviation that depends on how the edits are split into batches; here it
    is computed from the count, the mean and the sum of squared deviations, which pool exactly
    however the edits are split.

    Attributes:
        round_sha256: the round.
        count: ``n``, number of features, one for every token of an answer and edited layer.
        mean: ``[d]``, float64, with ``d = d_in + d_out``: of keys and gradients.
        scatter: ``[d]``, float64: sum of the squared differences from the mean.
    """

    what: ClassVar[str] = "normaliser"

    round_sha256: str
    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, round_sha256: str, features: Tensor) -> Normaliser:
        """The normaliser of features ``[d, n]``."""
        mean = features.double().mean(dim=1)
        scatter = (features.double() - mean[:, None]).square().sum(dim=1)
        return cls(round_sha256, features.shape[1], mean, scatter)

    @classmethod
    def pool(cls, parts: Sequence[Normaliser]) -> Normaliser:
        """The normaliser of all parts' features together (Chan et al., 1983)."""
        count = sum(part.count for part in parts)
        mean = torch.stack([part.count / count * part.mean for part in parts]).sum(dim=0)
        scatter = torch.stack(
            [part.scatter + part.count * (part.mean - mean).square() for part in parts]
        ).sum(dim=0)
        return cls(parts[0].round_sha256, count, mean, scatter)

    def normalise(self, features: Tensor) -> Tensor:
        """Features ``[d, n]`` minus the mean, divided by the deviation.

        Raises:
            RoundError: when a single feature has no deviation.
        """
        if self.count < 2:
            raise RoundError("one feature has no deviation; give more edits, or longer answers")
        deviation = (self.scatter / (self.count - 1)).sqrt() + _LEAST_DEVIATION
        return (features - self.mean[:, None]) / deviation[:, None]

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Mean, scatter and metadata."""
        about = _NormaliserMetadata(round_sha256=self.round_sha256, count=self.count)
        return {"mean": self.mean, "scatter": self.scatter}, about.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read an untrusted normaliser.

        Raises:
            RoundError: when it is not one, or an array in it is malformed.
        """
        about = parse_header(_NormaliserMetadata, metadata, source, RoundError)
        mean, scatter = (_vector(tensors, name, source) for name in ("mean", "scatter"))
        if mean.shape != scatter.shape or (scatter < 0).any():
            raise RoundError(f"{source}: mean and scatter are not of the same features")
        return cls(about.round_sha256, about.count, mean, scatter)

    def check(self, round_sha256: str, size: int) -> None:
        """Check that it belongs to a round.

        Args:
            round_sha256: identifies the round.
            size: ``d_in + d_out``.

        Raises:
            RoundError: when it is from another round or has another width.
        """
        if self.round_sha256 != round_sha256:
            raise RoundError("its normaliser is from another round; use the same round.json")
        if len(self.mean) != size:
            raise RoundError(f"its normaliser has {len(self.mean)} features; the model has {size}")


def _vector(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    value = tensors.get(name)
    if value is None or value.ndim != 1 or value.dtype != torch.float64 or value.numel() == 0:
        raise RoundError(f"{source}: {name} must be a float64 vector")
    if not torch.isfinite(value).all():
        raise RoundError(f"{source}: {name} has NaN or infinite entries; refused")
    return value


def packed_normaliser(
    normaliser: Normaliser | None,
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The arrays and metadata of an optional normaliser, for inclusion in another message."""
    if normaliser is None:
        return {}, None
    tensors, about = normaliser.pack()
    return {f"{_PREFIX}{name}": value for name, value in tensors.items()}, about


def without_normaliser(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A message's other arrays, and those of its normaliser without their prefix."""
    rest = {name: value for name, value in tensors.items() if not name.startswith(_PREFIX)}
    arrays = {n.removeprefix(_PREFIX): value for n, value in tensors.items() if n not in rest}
    return rest, arrays


def optional_normaliser(
    tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None, source: str
) -> Normaliser | None:
    """Read the untrusted output of :func:`packed_normaliser`.

    Raises:
        RoundError: when an array in it is malformed, or arrays come without metadata.
    """
    if about is None and not tensors:
        return None
    return Normaliser.unpack(tensors, about or {}, source)
