"""The unedited model of a delta: its structure and its files, without its weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collabedit.errors import ModelError, RoundError
from collabedit.export.original import snapshot_directory
from collabedit.export.weights import opened, stored_key, stored_names
from collabedit.messages import Delta
from collabedit.models.language_model import weight_sha256
from collabedit.models.loading import load_structure_only, parse_dtype, resolve
from collabedit.models.structure import ModelStructure, infer_structure

__all__ = ["Base", "unedited_weights"]


@dataclass(frozen=True, eq=False)
class Base:
    """The model that a delta was made for.

    Attributes:
        name: as given by the user.
        delta: the delta.
        hf: the ``transformers`` model on the meta device.
        directory: of its files; ``None`` if they are not on this machine.
    """

    name: str
    delta: Delta
    hf: Any
    directory: Path | None

    @classmethod
    def of(cls, delta: Delta, name: str | None = None, *, trust_remote_code: bool = False) -> Base:
        """Find the model of a delta.

        Args:
            delta: a complete delta.
            name: of the model on this machine, if not as the delta says.
            trust_remote_code: whether Python code that ships with the model may run.

        Raises:
            InputError: when there is no such model.
            ModelError: when its structure cannot be inferred.
            RoundError: when the delta is incomplete, or does not fit the model.
        """
        delta.require_complete()
        name = name or delta.metadata.model
        source = resolve(name)
        hf = load_structure_only(name, trust_remote_code=trust_remote_code)
        commit = getattr(hf.config, "_commit_hash", None)
        base = cls(name, delta, hf, snapshot_directory(source, commit))
        base._check_shapes()
        return base

    def _check_shapes(self) -> None:
        wanted = (self.structure.hidden_size, self.structure.mlp_size)
        edited = {self.structure.weight_name(n) for n in range(self.structure.n_layers)}
        for name, change in self.delta.changes.items():
            if name not in edited or change.shape != wanted:
                raise RoundError(
                    f"the delta changes {name} {list(change.shape)}; {self.name} has no such "
                    "weight: name the model that the delta was made for with --model"
                )

    @cached_property
    def structure(self) -> ModelStructure:
        """The model's structure."""
        return infer_structure(self.hf)

    @cached_property
    def unedited(self) -> Mapping[str, Tensor]:
        """The edited weights before the edit, as the model stores them.

        Raises:
            ModelError: when they cannot be read from the model's files.
        """
        found = unedited_weights(self.directory, self.delta, self.hf.base_model_prefix)
        if found is None:
            raise ModelError(
                f"{self.name}: its files are not here, or not those that the delta was made for "
                f"({self.delta.metadata.dtype}); give the model's directory with --model"
            )
        return found

    def edited(self, name: str) -> Tensor:
        """A weight after the edit, as the model stores it; the sum is formed in float64."""
        stored = self.unedited[name].clone()
        weight = stored.T if self.structure.transposed else stored
        weight.copy_(self.delta.changes[name].dense() + weight)
        return stored

    def layer_of(self, name: str) -> int:
        """The layer of an edited weight."""
        layers = range(self.structure.n_layers)
        return next(layer for layer in layers if self.structure.weight_name(layer) == name)


def unedited_weights(directory: Path | None, delta: Delta, prefix: str) -> dict[str, Tensor] | None:
    """The weights that a delta changes, from a model's files, in the type of the edit.

    Args:
        directory: of the unedited model.
        delta: the delta; it names the digest of each weight.
        prefix: of the names of the model without its head (``base_model_prefix``).

    Returns:
        ``None`` unless the files contain exactly the weights that the delta was made for.
    """
    if directory is None:
        return None
    files = stored_names(directory)
    dtype: torch.dtype = parse_dtype(delta.metadata.dtype)
    weights = {}
    for name in delta.changes:
        key = stored_key(name, prefix, files)
        if key is None:
            return None
        with opened(directory / files[key]) as stored:
            weight = stored.get_tensor(key).to(dtype)
        if weight_sha256(weight) != delta.metadata.model_sha256.get(name):
            return None
        weights[name] = weight
    return weights
