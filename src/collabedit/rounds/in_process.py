"""A round within one process: the same messages, handed over without a network."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.rounds.coordinator import Coordinator
from collabedit.rounds.delta import Delta
from collabedit.rounds.party import Party

__all__ = ["run_round"]


def run_round(parties: Sequence[Party], coordinator: Coordinator) -> Delta:
    """Exchange updates until the coordinator's round is complete; returns its delta.

    The parties share one model, which is edited once an exchange and left as it was.
    """
    model = parties[0].model
    for party in parties:
        party.targets  # noqa: B018  (found on the unedited model, before any layer is merged)
    while coordinator.pending_layers:
        delta = coordinator.delta
        with model.edited(delta.changes):
            updates = {f"party {i}": p.contribute(delta) for i, p in enumerate(parties)}
        coordinator.merge(updates)
    return coordinator.delta
