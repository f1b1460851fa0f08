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
from collabedit.export.weights import opened, parts_of, stored_key, stored_names
from collabedit.messages import Delta
from collabedit.models.language_model import weight_sha256
from collabedit.models.loading import load_structure_only, parse_dtype, resolve
from collabedit.models.structure import ModelStructure, infer_structure

__all__ = ["Base", "check_dense", "unedited_weights"]


@dataclass(frozen=True, eq=False)
class Base:
    """The model that a delta was made for.

    Attributes:
        name: as given by the user.
        delta: the delta.
        hf: the ``transformers`` model on the meta device.
        directory: directory of its files; ``None`` if they are not on this machine.
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
            name: the model's name on this machine, if it differs from the one in the delta.
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
        weights = unedited_weights(self.directory, self.delta, self.hf)
        if weights is None:
            raise ModelError(
                f"{self.name}: its files are not here, or not those that the delta was made for "
                f"({self.delta.metadata.dtype}); give the model's directory with --model"
            )
        return weights

    def edited(self, name: str) -> Tensor:
        """A weight after the edit, as the model stores it; the sum is computed in float64."""
        stored = self.unedited[name]
        weight = self.structure.matrix(stored)
        edited = (self.delta.changes[name].dense() + weight).to(stored.dtype)
        return self.structure.stored(edited).contiguous()

    def layer_of(self, name: str) -> int:
        """The layer of an edited weight."""
        layers = range(self.structure.n_layers)
        return next(layer for layer in layers if self.structure.weight_name(layer) == name)


def check_dense(name: str, structure: ModelStructure, what: str) -> None:
    """Check that the edited weights are matrices, as formats other than the model's own need.

    Args:
        name: the model's name.
        structure: the model's structure.
        what: the format, for the message.

    Raises:
        ModelError: when the model is a mixture of experts.
    """
    if structure.experts is not None:
        raise ModelError(
            f"{name} is a mixture of experts, whose edits cannot be written as {what}; export a "
            "model directory: --to model"
        )


def unedited_weights(directory: Path | None, delta: Delta, hf: Any) -> dict[str, Tensor] | None:
    """The weights that a delta changes, from a model's files, in the type that it was edited in.

    Args:
        directory: directory of the unedited model.
        delta: the delta; it has the digest of each weight.
        hf: the ``transformers`` model; weights on the meta device will do.

    Returns:
        The weights as the model stores them; ``None`` unless the files hold exactly the weights
        that the delta was made for.
    """
    if directory is None:
        return None
    files = stored_names(directory)
    dtype: torch.dtype = parse_dtype(delta.metadata.dtype)
    weights = {}
    for name in delta.changes:
        weight = _read(directory, files, name, hf)
        weight = None if weight is None else weight.to(dtype)
        if weight is None or weight_sha256(weight) != delta.metadata.model_sha256.get(name):
            return None
        weights[name] = weight
    return weights


def _read(directory: Path, files: Mapping[str, str], name: str, hf: Any) -> Tensor | None:
    """A weight from its parts in the files; ``None`` if one is missing."""
    try:
        shape = hf.get_parameter(name).to("meta")
    except AttributeError:
        return None
    tensors = []
    for part in parts_of(hf, name, shape):
        key = stored_key(part, hf.base_model_prefix, files)
        if key is None:
            return None
        with opened(directory / files[key]) as stored:
            tensors.append(stored.get_tensor(key))
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors)
