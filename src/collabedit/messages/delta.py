"""A delta: the outcome of a round, the change of each edited weight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from collabedit.algebra import LowRankUpdate, Missed
from collabedit.editors import DEFAULT_EDITOR, Schedule
from collabedit.errors import RoundError
from collabedit.merging import AfterMergeStep, apply_steps
from collabedit.messages.codec import TensorMessage
from collabedit.messages.metadata import ModelHeader, parse_header
from collabedit.messages.round import RoundConfig

__all__ = ["Delta", "DeltaMetadata", "low_rank_updates", "packed_updates"]


class DeltaMetadata(ModelHeader):
    """Header of a delta.

    Attributes:
        method: the merge method.
        options: of the method.
        editor: the round's.
        schedule: the round's.
        round_sha256: the round it came from.
        layers: the layers it changes.
        complete: whether all layers of the round are in it.
        parties: number of parties.
        edits: number of their edits.
        party_weights: weight of each party; empty for methods without weights.
        prior_weight: ``lambda``.
        dtype: the type in which the model is loaded.
        missed_edits: for editors whose edits hold exactly, the number of combinations of edits that
            do not, at the worst layer (:class:`collabedit.algebra.Missed`).
        worst_miss: the largest of these misses, relative to the residuals.
        after_merge: steps applied to the merged changes, in order.
    """

    earlier: ClassVar[Mapping[tuple[str, int], Mapping[str, str]]] = {
        ("collabedit.delta", 1): {"weights": "party_weights"}
    }

    format: Literal["collabedit.delta"] = "collabedit.delta"
    version: Literal[2] = 2
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    editor: str = DEFAULT_EDITOR
    schedule: Schedule
    round_sha256: str
    layers: tuple[int, ...]
    complete: bool
    parties: int
    edits: int
    party_weights: tuple[float, ...] = ()
    prior_weight: float
    dtype: str
    missed_edits: int = 0
    worst_miss: float = 0.0
    after_merge: tuple[AfterMergeStep, ...] = ()


@dataclass(frozen=True, eq=False)
class Delta(TensorMessage):
    """Changes of weights, ``W_new = W + B A``.

    In a file: ``<weight>/B [d_out, r]`` and ``<weight>/A [r, d_in]``, float64.

    Attributes:
        metadata: the header.
        changes: by weight name.
    """

    what: ClassVar[str] = "delta"

    metadata: DeltaMetadata
    changes: Mapping[str, LowRankUpdate]

    @classmethod
    def of(
        cls,
        config: RoundConfig,
        changes: Mapping[str, LowRankUpdate],
        *,
        method: str = "",
        options: Mapping[str, Any] | None = None,
        parties: int = 0,
        edits: int = 0,
        party_weights: Sequence[float] = (),
        missed: Missed | None = None,
    ) -> Delta:
        """A round's delta so far: changes of its lowest layers."""
        metadata = DeltaMetadata(
            model=config.model,
            model_sha256=config.model_sha256,
            method=method,
            options=dict(options or {}),
            editor=config.editor,
            schedule=config.schedule,
            round_sha256=config.sha256,
            layers=config.layers[: len(changes)],
            complete=len(changes) == len(config.layers),
            parties=parties,
            edits=edits,
            party_weights=tuple(party_weights),
            prior_weight=config.prior_weight,
            dtype=config.dtype,
            missed_edits=0 if missed is None else missed.count,
            worst_miss=0.0 if missed is None else missed.worst,
        )
        return cls(metadata, changes)

    @classmethod
    def empty(
        cls, config: RoundConfig, method: str = "", options: Mapping[str, Any] | None = None
    ) -> Delta:
        """The delta of a round before its first merge."""
        return cls.of(config, {}, method=method, options=options)

    @cached_property
    def sha256(self) -> str:
        """Identifies the changes; empty if there are none."""
        if not self.changes:
            return ""
        digest = hashlib.sha256()
        for name, change in sorted(self.changes.items()):
            digest.update(name.encode())
            for factor in (change.left, change.right):
                digest.update(factor.double().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check_round(self, config: RoundConfig) -> None:
        """Check that the delta contains the lowest layers of a round.

        Raises:
            RoundError: when it is from another round, or its arrays do not fit the round's model.
        """
        if self.metadata.round_sha256 != config.sha256:
            raise RoundError("the delta belongs to another round; use the same round.json")
        lowest = config.weight_names[: len(self.changes)]
        if tuple(sorted(self.changes)) != tuple(sorted(lowest)):
            raise RoundError("the delta does not contain the lowest layers of the round")
        for name, change in self.changes.items():
            if change.shape != (config.d_out, config.d_in):
                raise RoundError(
                    f"the delta's {name} is {list(change.shape)}; "
                    f"the round's weights are {[config.d_out, config.d_in]}"
                )

    def require_complete(self) -> None:
        """Check that all layers of the round are merged.

        Raises:
            RoundError: when some are not.
        """
        if not self.metadata.complete:
            raise RoundError(
                f"the delta contains layers {list(self.metadata.layers)} of an unfinished round; "
                "continue with 'collabedit contribute --delta' and 'collabedit merge --delta'"
            )

    def after(
        self,
        steps: Sequence[AfterMergeStep],
        weights: Mapping[str, Tensor],
        earlier: Mapping[str, LowRankUpdate] | None = None,
    ) -> Delta:
        """The delta after some steps, which are recorded in its metadata.

        Args:
            steps: the steps, applied in order.
            weights: by name, the weights ``[d_out, d_in]`` before the round.
            earlier: changes of earlier rounds, by weight name.

        Raises:
            RoundError: when layers are missing, or steps were already applied.
            UnknownNameError: when there is no such step.
            InputError: when a step has no such option, or its value is out of range.
        """
        if not steps:
            return self
        self.require_complete()
        if self.metadata.after_merge:
            done = ", then ".join(map(str, self.metadata.after_merge))
            raise RoundError(f"the delta has already been through {done}; give the delta as merged")
        checked = tuple(step.checked() for step in steps)
        metadata = self.metadata.model_copy(update={"after_merge": checked})
        return Delta(metadata, apply_steps(checked, self.changes, weights, earlier))

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """``B`` and ``A`` of each weight, and the metadata."""
        return packed_updates(self.changes), self.metadata.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read an untrusted delta.

        Raises:
            RoundError: when it is not a delta, or an array in it is malformed.
        """
        about = parse_header(DeltaMetadata, metadata, source, RoundError)
        return cls(about, low_rank_updates(tensors, source))


def packed_updates(changes: Mapping[str, LowRankUpdate]) -> dict[str, Tensor]:
    """Arrays ``<weight>/B [d_out, r]`` and ``<weight>/A [r, d_in]`` of changes by weight name."""
    tensors = {}
    for name, change in changes.items():
        tensors[f"{name}/B"], tensors[f"{name}/A"] = change.left, change.right
    return tensors


def low_rank_updates(tensors: Mapping[str, Tensor], source: str) -> dict[str, LowRankUpdate]:
    """Changes by weight name from arrays as :func:`packed_updates` names them.

    Raises:
        RoundError: when an array is missing, malformed or not finite.
    """
    changes = {}
    for name in sorted({key.rpartition("/")[0] for key in tensors}):
        left, right = tensors.get(f"{name}/B"), tensors.get(f"{name}/A")
        fits = (
            left is not None
            and right is not None
            and left.ndim == right.ndim == 2
            and left.shape[1] == right.shape[0]
            and left.is_floating_point()
            and right.is_floating_point()
        )
        if not fits or left is None or right is None:
            raise RoundError(f"{source}: {name} needs matrices B [d_out, r] and A [r, d_in]")
        if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
            raise RoundError(f"{source}: {name} has NaN or infinite entries; refused")
        changes[name] = LowRankUpdate(left.double(), right.double())
    return changes
