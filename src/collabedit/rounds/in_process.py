"""A round within one process: the same messages, handed over without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from collabedit.editing.fine_tuning import fine_tune
from collabedit.errors import RoundError
from collabedit.rounds.coordinator import Coordinator
from collabedit.rounds.delta import Delta
from collabedit.rounds.party import Party
from collabedit.rounds.state import RoundState

__all__ = ["run_round"]


def run_round(parties: Sequence[Party], coordinator: Coordinator) -> Delta:
    """Edit as the round's editor does until the round is complete; returns the coordinator's delta.

    The parties share one model, which is left as it was.

    Args:
        parties: whose edits are merged, in this order where the editor takes one at a time.
        coordinator: of the round; its ``keys`` and ``residual_norms`` tell of the round afterwards.

    Raises:
        RoundError: when the editor has no statistics and there are several parties.
    """
    rules = coordinator.config.rules
    if not rules.has_statistics:
        return _fine_tuned(parties, coordinator)
    if rules.one_at_a_time:
        return _one_by_one(parties, coordinator)
    return _together(parties, coordinator)


def _together(parties: Sequence[Party], coordinator: Coordinator) -> Delta:
    """Exchange updates until the round is complete; the model is edited once an exchange."""
    model = parties[0].model
    for party in parties:
        party.targets  # noqa: B018  (found on the unedited model, before any layer is merged)
    while coordinator.pending_layers:
        delta = coordinator.delta
        with model.edited(delta.changes):
            updates = {f"party {i}": p.contribute(delta) for i, p in enumerate(parties)}
        coordinator.merge(updates)
    return coordinator.delta


def _one_by_one(parties: Sequence[Party], coordinator: Coordinator) -> Delta:
    """A round for every edit, each on the model that the one before it left.

    In each, one party sends the statistics of one edit, and the coordinator solves. So many parties
    come to what one party would that holds their edits in the same order.
    """
    state = RoundState()
    for party in parties:
        for request in party.requests:
            with party.model.starting_from(state.changes):
                config = coordinator.config.on(party.model)
                turn = Coordinator(config, coordinator.priors, coordinator.method)
                delta = _together([party.holding(request, config)], turn)
            state = state.after(delta.changes, turn.keys)
            for name, norm in turn.residual_norms.items():
                earlier = coordinator.residual_norms.get(name, 0.0)
                coordinator.residual_norms[name] = math.hypot(earlier, norm)
    coordinator.keys.update(state.keys)
    return coordinator.conclude(state.changes, parties=len(parties), edits=state.finished)


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
