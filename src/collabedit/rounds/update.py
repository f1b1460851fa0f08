"""An update: the one thing that a party sends, factors of its edits' statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from collabedit.algebra import Factors
from collabedit.errors import UpdateError
from collabedit.files import load_tensors, save_tensors, tensor_metadata
from collabedit.rounds.config import RoundConfig, Schedule
from collabedit.rounds.fingerprints import Digest, Fingerprint
from collabedit.rounds.metadata import FileMetadata, parse_metadata

__all__ = ["EditUpdate", "UpdateMetadata"]

_FORMAT = "collabedit.update"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class UpdateMetadata(FileMetadata):
    """What an update says about itself; never any text of a request.

    Attributes:
        round_sha256: the round it belongs to.
        delta_sha256: the merged layers it was measured on top of; empty for none.
        layers: the layers it is about.
        edits: number of edits behind it.
        schedule: the round's.
        contexts_sha256: the round's contexts.
        dtype: type of the arrays in the file.
        skipped: number of further edits that the party skipped, since the model knows them.
        fingerprints: of the edits, sorted, so that their order says nothing; off by default.
        fingerprint_key_id: tells whether parties used the same key.
    """

    format: Literal["collabedit.update"] = "collabedit.update"
    version: Literal[1] = 1
    round_sha256: str
    delta_sha256: str
    layers: tuple[int, ...] = Field(min_length=1)
    edits: int = Field(ge=1)
    schedule: Schedule
    contexts_sha256: str
    dtype: Literal["float32", "float64"] = "float64"
    skipped: int = Field(default=0, ge=0)
    fingerprints: tuple[Fingerprint, ...] = ()
    fingerprint_key_id: Digest | Literal[""] = ""

    @model_validator(mode="after")
    def _one_fingerprint_an_edit(self) -> UpdateMetadata:
        if bool(self.fingerprints) != bool(self.fingerprint_key_id):
            raise ValueError("fingerprints and fingerprint_key_id come together")
        if self.fingerprints and len(self.fingerprints) != self.edits:
            raise ValueError(f"{len(self.fingerprints)} fingerprints of {self.edits} edits")
        if list(self.fingerprints) != sorted(self.fingerprints):
            raise ValueError("the fingerprints are not sorted")
        return self

    @classmethod
    def load(cls, path: Path) -> UpdateMetadata:
        """Read what an update file says about itself, and not its arrays.

        Raises:
            InputError: when the file is not a safetensors file.
            UpdateError: when it is not an update.
        """
        return parse_metadata(cls, tensor_metadata(path, "update"), _FORMAT, path, UpdateError)


@dataclass(frozen=True)
class EditUpdate:
    """A party's message to the coordinator.

    Attributes:
        metadata: what it says about itself.
        statistics: factors by weight name; none in an update for detection only.
    """

    metadata: UpdateMetadata
    statistics: Mapping[str, Factors]

    def save(self, path: Path) -> None:
        """Write the update: ``<weight>/keys [r, d_in]`` and ``<weight>/residuals [r, d_out]``."""
        dtype = _DTYPES[self.metadata.dtype]
        tensors = {}
        for name, factors in self.statistics.items():
            tensors[f"{name}/keys"] = factors.keys.T.to(dtype)
            tensors[f"{name}/residuals"] = factors.residuals.T.to(dtype)
        save_tensors(path, tensors, self.metadata.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> EditUpdate:
        """Read an update from anywhere, trusting nothing in it.

        Raises:
            InputError: when the file is not a safetensors file.
            UpdateError: when an array is missing, of a wrong kind, or not finite.
        """
        tensors, values = load_tensors(path, "update")
        metadata = parse_metadata(UpdateMetadata, values, _FORMAT, path, UpdateError)
        statistics = {
            name: _factors(tensors, name, str(path))
            for name in sorted({key.rpartition("/")[0] for key in tensors})
        }
        return cls(metadata, statistics)

    def check(self, config: RoundConfig, delta_sha256: str, layers: tuple[int, ...]) -> None:
        """Check that the update belongs to this exchange of this round.

        Args:
            config: the round.
            delta_sha256: identifies the layers merged so far.
            layers: the layers of the exchange.

        Raises:
            UpdateError: when it does not.
        """
        metadata = self.metadata
        if metadata.model_sha256 != config.model_sha256:
            raise UpdateError(f"it was made on another model than the round's ({config.model})")
        if metadata.round_sha256 != config.sha256:
            raise UpdateError(
                "it belongs to another round; all parties must use the same round.json"
            )
        if metadata.layers != layers or metadata.delta_sha256 != delta_sha256:
            raise UpdateError(
                f"it is for layers {list(metadata.layers)} on another state of the round; "
                f"wanted are layers {list(layers)} on top of what is merged so far"
            )
        if not self.statistics:
            raise UpdateError("it holds fingerprints only; make it without --fingerprints-only")
        expected = {config.weight_of(layer) for layer in layers}
        if set(self.statistics) != expected:
            raise UpdateError(f"it must hold exactly the weights {sorted(expected)}")
        for name, factors in self.statistics.items():
            widths = (factors.keys.shape[0], factors.residuals.shape[0])
            if widths != (config.d_in, config.d_out):
                raise UpdateError(
                    f"{name}: keys and residuals are {widths[0]} and {widths[1]} wide; "
                    f"the round's model has {config.d_in} and {config.d_out}"
                )


def _factors(tensors: Mapping[str, Tensor], name: str, where: str) -> Factors:
    keys = _matrix(tensors, f"{name}/keys", where)
    residuals = _matrix(tensors, f"{name}/residuals", where)
    if len(keys) != len(residuals):
        raise UpdateError(f"{where}: {name} has {len(keys)} keys but {len(residuals)} residuals")
    return Factors(keys.T.double(), residuals.T.double())


def _matrix(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    value = tensors.get(name)
    if value is None:
        raise UpdateError(f"{where}: the array {name} is missing")
    if value.ndim != 2 or value.dtype not in _DTYPES.values() or value.numel() == 0:
        raise UpdateError(
            f"{where}: {name} must be a float32 or float64 matrix, "
            f"found {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        )
    if not torch.isfinite(value).all():
        raise UpdateError(f"{where}: {name} has NaN or infinite entries; refused")
    return value
