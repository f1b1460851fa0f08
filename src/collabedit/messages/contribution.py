"""A contribution: the statistics of a party's edits, the only thing that it sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from collabedit.algebra import Factors
from collabedit.editors import Schedule
from collabedit.errors import ContributionError
from collabedit.files import sha256_of_json, tensor_metadata
from collabedit.messages.codec import TensorMessage
from collabedit.messages.fingerprint import Digest, Fingerprint
from collabedit.messages.metadata import ModelHeader, parse_header
from collabedit.messages.round import RoundConfig
from collabedit.messages.secure import digest_of

__all__ = ["Contribution", "ContributionMetadata"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ContributionMetadata(ModelHeader):
    """Header of a contribution; never any text of a request.

    Attributes:
        round_sha256: the round it belongs to.
        delta_sha256: the merged layers it was measured on top of; empty for none.
        layers: the layers of the exchange.
        edits: number of edits in it.
        schedule: the round's.
        contexts_sha256: the round's contexts.
        dtype: type of the arrays in the file.
        party: the party's name for itself; may be empty.
        commitment: commits the party to its edits for the whole round: the same in all its
            exchanges, and meaningless without its secret. Empty in files of version 1.
        skipped: number of further edits that the party skipped because the model knows them.
        fingerprints: of the edits, sorted, so that their order reveals nothing; off by default.
        fingerprint_key_id: shows whether parties used the same key.
    """

    earlier: ClassVar[Mapping[tuple[str, int], Mapping[str, str]]] = {("collabedit.update", 1): {}}

    format: Literal["collabedit.contribution"] = "collabedit.contribution"
    version: Literal[2] = 2
    round_sha256: str
    delta_sha256: str
    layers: tuple[int, ...] = Field(min_length=1)
    edits: int = Field(ge=1)
    schedule: Schedule
    contexts_sha256: str
    dtype: Literal["float32", "float64"] = "float64"
    party: str = Field(default="", max_length=200)
    commitment: Digest | Literal[""] = ""
    skipped: int = Field(default=0, ge=0)
    fingerprints: tuple[Fingerprint, ...] = ()
    fingerprint_key_id: Digest | Literal[""] = ""

    @model_validator(mode="after")
    def _one_fingerprint_an_edit(self) -> Self:
        if bool(self.fingerprints) != bool(self.fingerprint_key_id):
            raise ValueError("fingerprints and fingerprint_key_id come together")
        if self.fingerprints and len(self.fingerprints) != self.edits:
            raise ValueError(f"{len(self.fingerprints)} fingerprints of {self.edits} edits")
        if list(self.fingerprints) != sorted(self.fingerprints):
            raise ValueError("the fingerprints are not sorted")
        return self

    @classmethod
    def load(cls, path: Any) -> Self:
        """Read a contribution file's header without its arrays.

        Raises:
            InputError: when the file is not a safetensors file.
            ContributionError: when it is not a contribution.
        """
        return parse_header(cls, tensor_metadata(path, Contribution.what), path, ContributionError)


@dataclass(frozen=True)
class Contribution(TensorMessage):
    """A party's message to the coordinator.

    In a file: ``<weight>/keys [r, d_in]`` and ``<weight>/residuals [r, d_out]``.

    Attributes:
        metadata: the header.
        statistics: factors by weight name; none in a contribution for detection only.
    """

    what: ClassVar[str] = "contribution"

    metadata: ContributionMetadata
    statistics: Mapping[str, Factors]

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The rows of ``F^T`` and ``G^T`` of each weight, and the metadata."""
        dtype = _DTYPES[self.metadata.dtype]
        tensors = {}
        for name, factors in self.statistics.items():
            tensors[f"{name}/keys"] = factors.keys.T.to(dtype)
            tensors[f"{name}/residuals"] = factors.residuals.T.to(dtype)
        return tensors, self.metadata.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read an untrusted contribution.

        Raises:
            ContributionError: when an array is missing, has the wrong type, or is not finite.
        """
        about = parse_header(ContributionMetadata, metadata, source, ContributionError)
        names = sorted({key.rpartition("/")[0] for key in tensors})
        return cls(about, {name: _factors(tensors, name, source) for name in names})

    @cached_property
    def sha256(self) -> str:
        """Identifies the contribution, independent of its file or message."""
        # Not of the file's bytes: safetensors writes metadata in any order.
        arrays, about = self.pack()
        return sha256_of_json([about, {name: digest_of(value) for name, value in arrays.items()}])

    def check(self, config: RoundConfig, delta_sha256: str, layers: tuple[int, ...]) -> None:
        """Check that the contribution belongs to this exchange of this round.

        Args:
            config: the round.
            delta_sha256: identifies the layers merged so far.
            layers: the layers of the exchange.

        Raises:
            ContributionError: when it does not.
        """
        self._check_round(config)
        self._check_exchange(delta_sha256, layers)
        expected = {config.weight_of(layer) for layer in layers}
        if set(self.statistics) != expected:
            raise ContributionError(f"it must contain exactly the weights {sorted(expected)}")
        for name, factors in self.statistics.items():
            widths = (factors.keys.shape[0], factors.residuals.shape[0])
            if widths != (config.d_in, config.d_out):
                raise ContributionError(
                    f"{name}: keys and residuals are {widths[0]} and {widths[1]} wide; "
                    f"the round's model has {config.d_in} and {config.d_out}"
                )
            most = config.most_directions(self.metadata.edits)
            if factors.rank > most:
                raise ContributionError(
                    f"{name}: {factors.rank} directions from {self.metadata.edits} edits; "
                    f"there can be at most {most}"
                )

    def check_announcement(self, config: RoundConfig) -> None:
        """Check that it holds fingerprints for this round, and nothing else.

        Raises:
            ContributionError: when it does not.
        """
        self._check_round(config)
        if self.statistics:
            raise ContributionError("it holds statistics, but only fingerprints were asked for")
        if not self.metadata.fingerprints:
            raise ContributionError("it holds no fingerprints")

    def _check_round(self, config: RoundConfig) -> None:
        metadata = self.metadata
        if metadata.model_sha256 != config.model_sha256:
            raise ContributionError(
                f"it was made on another model than the round's ({config.model})"
            )
        if metadata.round_sha256 != config.sha256:
            raise ContributionError(
                "it belongs to another round; all parties must use the same round.json"
            )

    def _check_exchange(self, delta_sha256: str, layers: tuple[int, ...]) -> None:
        metadata = self.metadata
        if metadata.layers != layers or metadata.delta_sha256 != delta_sha256:
            raise ContributionError(
                f"it is for layers {list(metadata.layers)} on another state of the round; "
                f"the round waits for layers {list(layers)} on top of what is merged so far"
            )
        if not self.statistics:
            raise ContributionError(
                "it contains fingerprints only; make it without --fingerprints-only"
            )


def _factors(tensors: Mapping[str, Tensor], name: str, source: str) -> Factors:
    keys = _matrix(tensors, f"{name}/keys", source)
    residuals = _matrix(tensors, f"{name}/residuals", source)
    if len(keys) != len(residuals):
        raise ContributionError(
            f"{source}: {name} has {len(keys)} keys but {len(residuals)} residuals"
        )
    return Factors(keys.T.double(), residuals.T.double())


def _matrix(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    value = tensors.get(name)
    if value is None:
        raise ContributionError(f"{source}: the array {name} is missing")
    if value.ndim != 2 or value.dtype not in _DTYPES.values() or value.numel() == 0:
        raise ContributionError(
            f"{source}: {name} must be a float32 or float64 matrix, "
            f"found {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        )
    if not torch.isfinite(value).all():
        raise ContributionError(f"{source}: {name} has NaN or infinite entries; refused")
    return value
