"""What finished rounds leave to the next one: the weights they changed and the keys they wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate, Prior
from collabedit.errors import RoundError
from collabedit.files import load_tensors, save_tensors
from collabedit.rounds.delta import low_rank_updates
from collabedit.rounds.priors import Priors

__all__ = ["RoundState"]

_FORMAT = "collabedit.state"


@dataclass(frozen=True, eq=False)
class RoundState:
    """The state between two rounds.

    Attributes:
        finished: number of finished rounds.
        changes: by weight name, all changes since the unedited model.
        keys: by weight name, the pooled key factors ``F [d_in, r]`` of all finished rounds, which
            the dynamic covariance protects; none for methods that do not pool statistics.
    """

    finished: int = 0
    changes: Mapping[str, LowRankUpdate] = field(default_factory=dict)
    keys: Mapping[str, Tensor] = field(default_factory=dict)

    def priors(self, static: Mapping[str, Prior], beta: float) -> Priors:
        """The next round's priors, ``A0 + beta sum F F^T`` (CollabEdit, dynamic covariance).

        Args:
            static: ``A0`` by weight name.
            beta: weight of the keys of finished rounds; zero is the static covariance.
        """

        def make(name: str) -> Prior:
            prior = static[name]
            return prior.updated(self.keys[name], beta) if name in self.keys else prior

        return Priors(static, make, static.held if isinstance(static, Priors) else None)

    def after(self, changes: Mapping[str, LowRankUpdate], keys: Mapping[str, Tensor]) -> RoundState:
        """The state after one more round.

        Args:
            changes: what the round merged, by weight name.
            keys: its pooled key factors by weight name; may be empty.
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
        return RoundState(self.finished + 1, {**self.changes, **summed}, {**self.keys, **pooled})

    def save(self, path: Path) -> None:
        """Write ``<weight>/B``, ``<weight>/A`` and ``<weight>/keys [r, d_in]``, float64."""
        tensors = {}
        for name, change in self.changes.items():
            tensors[f"{name}/B"], tensors[f"{name}/A"] = change.left, change.right
        for name, keys in self.keys.items():
            tensors[f"{name}/keys"] = keys.T
        save_tensors(path, tensors, {"format": _FORMAT, "version": 1, "finished": self.finished})

    @classmethod
    def load(cls, path: Path) -> RoundState:
        """Read a state.

        Raises:
            InputError: when the file is not a safetensors file.
            RoundError: when it is not a state, or an array in it is malformed.
        """
        tensors, metadata = load_tensors(path, "state")
        if (metadata.get("format"), metadata.get("version")) != (_FORMAT, 1):
            raise RoundError(f"{path}: not a {_FORMAT} file of version 1")
        finished = metadata.get("finished")
        if not isinstance(finished, int) or finished < 0:
            raise RoundError(f"{path}: finished must be a number of rounds, found {finished!r}")
        keys = {
            name.removesuffix("/keys"): value
            for name, value in tensors.items()
            if name.endswith("/keys")
        }
        rest = {name: value for name, value in tensors.items() if not name.endswith("/keys")}
        changes = low_rank_updates(rest, path)
        for name, value in keys.items():
            fits = name in changes and value.ndim == 2 and value.shape[1] == changes[name].shape[1]
            if not fits or not torch.isfinite(value).all():
                raise RoundError(f"{path}: the keys of {name} are malformed")
        return cls(finished, changes, {name: value.T.double() for name, value in keys.items()})
