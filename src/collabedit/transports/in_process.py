"""A round within one process: the same bytes, without a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from collabedit.editors import Procedure
from collabedit.errors import CollabEditError, RoundError
from collabedit.messages import Delta, Request, RequestKind, RoundState
from collabedit.parties import Party, fine_tune, round_on
from collabedit.rounds import Coordinator, Failure, run_round

__all__ = ["InProcess", "run_in_process"]


class InProcess:
    """A transport to parties in this process, which share one model.

    Requests and answers cross it as the same bytes that a network would carry. A party without a
    name is named after its index, so that answers are merged in the parties' order.

    Args:
        parties: in order.
    """

    def __init__(self, parties: Sequence[Party]) -> None:
        width = len(str(len(parties)))
        self._parties: dict[str, Party] = {}
        for number, party in enumerate(parties):
            name = party.name or f"party {number:0{width}}"
            if name in self._parties:
                raise RoundError(f"two parties are called {name}; give each a unique name")
            self._parties[name] = party

    @property
    def parties(self) -> Sequence[str]:
        """The parties' names."""
        return list(self._parties)

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        """Ask the parties in turn, editing the model once for all of them.

        The exception is a trial of the delta, which starts from the unedited model.
        """
        asked = Request.from_bytes(request)
        merged = {} if asked.kind is RequestKind.EVALUATE else asked.delta.changes
        model = next(iter(self._parties.values())).model
        with model.edited(merged):
            return {name: self._answer(name, request) for name in to}

    def _answer(self, name: str, request: bytes) -> bytes | Failure:
        try:
            return self._parties[name].answer(request)
        except CollabEditError as error:
            return Failure(str(error), error)


def run_in_process(parties: Sequence[Party], coordinator: Coordinator) -> Delta:
    """Run a whole round the way its editor works; returns the coordinator's delta.

    The parties share one model, which is left unchanged.

    Args:
        parties: the parties to merge, in this order if the editor takes one edit at a time.
        coordinator: the round's coordinator; its ledger describes the round afterwards.

    Raises:
        RoundError: when the editor has no statistics and there are several parties.
    """
    return _PROCEDURES[coordinator.config.rules.procedure](parties, coordinator)


def _together(parties: Sequence[Party], coordinator: Coordinator) -> Delta:
    return run_round(InProcess(parties), coordinator)


def _one_by_one(parties: Sequence[Party], coordinator: Coordinator) -> Delta:
    """One round per edit, each on the model that the previous one left.

    In each, one party sends the statistics of one edit, and the coordinator solves. Several parties
    therefore get the same result as a single party with their edits in the same order.
    """
    state = RoundState()
    norms: dict[str, float | None] = {}
    for party in parties:
        for request in party.requests:
            with party.model.starting_from(state.changes):
                config = round_on(coordinator.config, party.model)
                turn = Coordinator(config, coordinator.priors, coordinator.method)
                delta = _together([party.holding(request, config)], turn)
            state = state.after(delta.changes, turn.keys)
            for name, norm in turn.residual_norms.items():
                norms[name] = math.hypot(norms.get(name) or 0.0, norm or 0.0)
    return coordinator.conclude(
        state.changes,
        parties=len(parties),
        edits=state.finished,
        keys=state.keys,
        residual_norms=norms,
    )


def _fine_tuned(parties: Sequence[Party], coordinator: Coordinator) -> Delta:
    """One party's fine-tuning, or that of all edits pooled."""
    if len(parties) != 1:
        raise RoundError(
            f"{coordinator.config.editor} has no statistics to merge; let each party edit alone "
            "and merge the deltas"
        )
    (party,) = parties
    changes = fine_tune(party.model, party.requests, coordinator.config.hyperparameters)
    return coordinator.conclude(changes, parties=1, edits=len(party.requests))


_PROCEDURES = {
    Procedure.TOGETHER: _together,
    Procedure.GRADIENTS: _together,
    Procedure.ONE_BY_ONE: _one_by_one,
    Procedure.FINE_TUNING: _fine_tuned,
}
