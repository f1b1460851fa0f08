"""A party: it holds private requests and answers each exchange with statistics of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from collabedit.algebra import compress
from collabedit.editing.keys import Measurement, measure
from collabedit.editing.targets import TargetCache, optimise_targets
from collabedit.errors import RequestError, RoundError
from collabedit.models.language_model import LanguageModel
from collabedit.requests import EditRequest
from collabedit.rounds.config import RoundConfig, Schedule
from collabedit.rounds.delta import Delta
from collabedit.rounds.update import EditUpdate, UpdateMetadata

__all__ = ["Party"]


class Party:
    """One party of a round.

    Args:
        model: the round's model, unedited; several parties of one process may share it.
        requests: its edits, which never leave it.
        config: the round.
        cache: where it keeps its targets between exchanges.
        targets: ``Z [d_out, n]``, when they are known already.

    Raises:
        RequestError: when it has no requests.
        RoundError: when the model is not the round's.
    """

    def __init__(
        self,
        model: LanguageModel,
        requests: Sequence[EditRequest],
        config: RoundConfig,
        *,
        cache: TargetCache | None = None,
        targets: Tensor | None = None,
    ) -> None:
        if not requests:
            raise RequestError("a party without requests has no part in a round")
        config.check_model(model)
        self.model = model
        self.requests = list(requests)
        self.config = config
        self._cache = cache
        self._targets = targets
        self._measured: dict[tuple[str, tuple[int, ...]], Measurement] = {}

    @classmethod
    def pooled(cls, parties: Sequence[Party]) -> Party:
        """The single party that would hold all edits of several, from the same targets."""
        first = parties[0]
        pooled = cls(
            first.model,
            [request for party in parties for request in party.requests],
            first.config,
            targets=torch.cat([party.targets for party in parties], dim=1),
        )
        for key in first._measured:
            if all(key in party._measured for party in parties):
                parts = [party._measured[key] for party in parties]
                pooled._measured[key] = Measurement.concatenate(parts)
        return pooled

    @property
    def targets(self) -> Tensor:
        """``Z [d_out, n]``, found on the unedited model at first use."""
        if self._targets is None:
            self._targets = optimise_targets(
                self.model,
                self.requests,
                self.config.contexts,
                self.config.hyperparameters,
                cache=self._cache,
            )
            self._check_targets(self._targets)
        return self._targets

    def contribute(
        self, delta: Delta, dtype: Literal["float32", "float64"] = "float64"
    ) -> EditUpdate:
        """Answer one exchange.

        Args:
            delta: what the round has merged so far.
            dtype: type of the arrays once they are written to a file.

        Raises:
            RoundError: when the delta is of another round, or already complete.
        """
        config = self.config
        delta.check_round(config)
        layers = config.pending_layers(len(delta.changes))
        if not layers:
            raise RoundError("the round is complete: all its layers are merged")
        targets = self.targets.double()
        measurement = self._measure(delta, layers)
        residual = targets - measurement.hidden
        statistics = {
            config.weight_of(layer): compress(
                measurement.keys[layer], config.residual_share(layer) * residual
            )
            for layer in layers
        }
        metadata = UpdateMetadata(
            model=config.model,
            model_sha256=config.model_sha256,
            round_sha256=config.sha256,
            delta_sha256=delta.sha256,
            layers=layers,
            edits=len(self.requests),
            schedule=config.schedule,
            contexts_sha256=config.contexts_sha256,
            dtype=dtype,
        )
        return EditUpdate(metadata, statistics)

    def _measure(self, delta: Delta, layers: tuple[int, ...]) -> Measurement:
        key = (delta.sha256, layers)
        if key not in self._measured:
            with self.model.edited(delta.changes):
                measurement = measure(
                    self.model, self.requests, self.config.contexts, layers, self.config.layers[-1]
                )
            if self.config.schedule is not Schedule.ONE_SHOT:
                return measurement
            self._measured[key] = measurement
        return self._measured[key]

    def _check_targets(self, targets: Tensor) -> None:
        bad = (~torch.isfinite(targets)).any(dim=0).nonzero().flatten().tolist()
        if bad:
            raise RequestError(
                f"no finite target was found for case {self.requests[bad[0]].case_id}; "
                "lower target_learning_rate or clamp_factor"
            )
