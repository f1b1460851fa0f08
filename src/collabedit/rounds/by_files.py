"""A coordinator's files for a round that runs by exchanging files, and for the rounds before it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError, RoundError
from collabedit.files import StrPath
from collabedit.merging import MergeMethod
from collabedit.messages import Covariance, Delta, RoundConfig, RoundState
from collabedit.rounds.coordinator import Coordinator
from collabedit.rounds.ledger import Ledger
from collabedit.rounds.priors import dynamic_priors, static_priors

__all__ = ["RoundFiles", "keep_state", "ledger_file_of", "state_before"]


class RoundFiles:
    """The files beside a coordinator's ``round.json``.

    Args:
        round_file: the round.
        covariance: file of the second moments of the unedited model.
        state: several rounds: file of the state between them, read if it exists.
        beta: weight of earlier rounds' keys in the prior; the editor's own by default.
        memory_budget: bytes that building the priors may take.

    Attributes:
        config: the round.
        ledger_file: of the finished exchanges, ``ROUND.ledger.safetensors``.

    Raises:
        InputError: when a file cannot be read, the round follows others and ``state`` is not given,
            or ``beta`` is given without it.
        RoundError: when a file is of another kind, or the state is not the one that the round
            starts from.
    """

    def __init__(
        self,
        round_file: StrPath,
        covariance: StrPath,
        state: StrPath | None = None,
        beta: float | None = None,
        memory_budget: int | None = None,
    ) -> None:
        if beta is not None and state is None:
            raise InputError("--beta needs --state, which has the keys of earlier rounds")
        self.config: RoundConfig = RoundConfig.load(round_file)
        self.ledger_file = ledger_file_of(round_file)
        self._covariance = covariance
        self._state_file = None if state is None else Path(state)
        self._beta = self.config.rules.beta if beta is None else beta
        self._memory_budget = memory_budget
        self._state = state_before(self.config, self._state_file)

    def coordinator(
        self,
        method: MergeMethod,
        options: Mapping[str, Any] | None = None,
        delta: StrPath | None = None,
    ) -> Coordinator:
        """A coordinator that resumes after the earlier exchanges of the round.

        Args:
            method: how to merge.
            options: options of the method.
            delta: the outcome of the last exchange; ``None`` to start with the first one.

        Raises:
            RoundError: as :meth:`ledger` does.
            CovarianceError: when the covariance belongs to another model.
        """
        covariance = Covariance.load(self._covariance)
        priors = static_priors(self.config, covariance, self._memory_budget)
        if self._state is not None:
            priors = dynamic_priors(priors, self._state.keys, self._beta)
        ledger = None if delta is None else self.ledger(delta)
        return Coordinator(self.config, priors, method, options=options, ledger=ledger)

    def ledger(self, delta: StrPath) -> Ledger:
        """The ledger of the earlier exchanges.

        Args:
            delta: the outcome of the last one.

        Raises:
            RoundError: when the delta is not that of the last exchange, or the ledger is missing.
        """
        so_far = Delta.load(delta)
        so_far.check_round(self.config)
        if not self.ledger_file.is_file():
            raise RoundError(
                f"{self.ledger_file}, which records who took part in the earlier exchanges, is "
                "missing; put it back beside the round file, or start again with the first exchange"
            )
        ledger = Ledger.load(self.ledger_file)
        if ledger.delta.sha256 != so_far.sha256:
            raise RoundError(
                f"{os.fspath(delta)}: not the delta of this round's last exchange; give the "
                "one that 'collabedit merge' wrote last"
            )
        return ledger

    @property
    def earlier(self) -> Mapping[str, LowRankUpdate] | None:
        """The changes of earlier rounds, by weight name; ``None`` if this is the only round."""
        return None if self._state is None else self._state.changes

    def keep(self, coordinator: Coordinator, delta: Delta | None = None) -> str | None:
        """Write the ledger, and the state once the round is complete, unless it has a gate.

        Args:
            coordinator: after an exchange.
            delta: the merged delta after any steps that changed it.

        Returns:
            A line naming the state's file, if it was written.
        """
        ledger = coordinator.ledger if delta is None else replace(coordinator.ledger, delta=delta)
        ledger.save(self.ledger_file)
        if coordinator.pending_layers or self.config.gate is not None:
            return None
        return keep_state(self._state_file, self._state, ledger)


def ledger_file_of(round_file: StrPath) -> Path:
    """The path of a round's ledger: beside the round file."""
    return Path(round_file).with_suffix(".ledger.safetensors")


def state_before(config: RoundConfig, path: Path | None) -> RoundState | None:
    """The state after earlier rounds; ``None`` if there are none and no state is requested.

    Raises:
        InputError: when the round follows earlier ones and no state is given.
        RoundError: when it is not the state that the round starts from.
    """
    if path is None:
        if config.state_sha256:
            raise InputError("the round follows earlier ones; give their --state")
        return None
    state = RoundState.load(path) if path.exists() else RoundState()
    if state.sha256 != config.state_sha256:
        raise RoundError(
            f"{path}: not the state that this round starts from; it is the state after "
            f"round {state.finished} (start the next round with 'collabedit round new --state')"
        )
    return replace(state, base_sha256=dict(config.covariance_sha256))


def keep_state(path: Path | None, before: RoundState | None, ledger: Ledger) -> str | None:
    """Write the state after a complete round, if requested.

    Returns:
        A line naming the file, if it was written.
    """
    if path is None or before is None:
        return None
    before.after(ledger.delta.changes, ledger.keys).save(path)
    return f"{path}: the state after round {before.finished + 1}"
