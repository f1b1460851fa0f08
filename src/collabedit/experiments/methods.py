"""What each merge method makes of the parties' edits, all from the same targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from collabedit.algebra import Prior, relative_distance
from collabedit.merging import POOLED, MergeMethod, Merges, resolve_method
from collabedit.messages import Delta, RoundConfig
from collabedit.parties import Party
from collabedit.rounds import Coordinator, merge_deltas
from collabedit.transports import run_in_process

__all__ = ["POOLED", "Merged", "distance", "distances", "edit_alone", "merge_edits"]


@dataclass(frozen=True)
class Merged:
    """What a round comes to.

    Attributes:
        delta: the change of the weights.
        keys: by weight name, the pooled key factors ``F [d_in, r]``; none for methods that merge
            finished updates, since nobody pools statistics there.
        residual_norms: by weight name, ``|R|`` (Frobenius) of the residuals; likewise.
    """

    delta: Delta
    keys: Mapping[str, Tensor] = field(default_factory=dict)
    residual_norms: Mapping[str, float | None] = field(default_factory=dict)


def merge_edits(
    method: MergeMethod,
    parties: Sequence[Party],
    config: RoundConfig,
    priors: Mapping[str, Prior],
    own_deltas: Callable[[], Mapping[str, Delta]] | None = None,
) -> Merged:
    """Merge the parties' edits by a method.

    In the one-shot schedule all methods start from the same uploads. In the sequential one, and
    with editors that take one edit at a time or fine-tune, the methods that merge updates get what
    users of model merging have: each party's delta, edited alone to the end.

    Args:
        method: how to merge.
        parties: with their targets.
        config: the round.
        priors: ``A0`` by weight name.
        own_deltas: gives the parties' own deltas; they are computed where it is not given.
    """
    if method.merges is Merges.UPDATES:
        if config.one_exchange:
            return Merged(run_in_process(parties, Coordinator(config, priors, method)))
        own = own_deltas or (lambda: _own_deltas(parties, config, priors))
        return Merged(merge_deltas(own(), method))
    together = [Party.pooled(parties)] if method.name == POOLED else parties
    coordinator = Coordinator(config, priors, method)
    delta = run_in_process(together, coordinator)
    return Merged(delta, coordinator.keys, coordinator.residual_norms)


def edit_alone(party: Party, config: RoundConfig, priors: Mapping[str, Prior]) -> Delta:
    """The delta of one party that edits to the end by itself."""
    return run_in_process([party], Coordinator(config, priors, resolve_method(POOLED)))


def _own_deltas(
    parties: Sequence[Party], config: RoundConfig, priors: Mapping[str, Prior]
) -> dict[str, Delta]:
    return {
        f"party {index}": edit_alone(party, config, priors) for index, party in enumerate(parties)
    }


def distances(deltas: Mapping[str, Delta]) -> dict[str, float]:
    """By method, the distance from GLOBAL; empty when GLOBAL is not among the methods."""
    if POOLED not in deltas:
        return {}
    return {name: distance(delta, deltas[POOLED]) for name, delta in deltas.items()}


def distance(delta: Delta, reference: Delta) -> float:
    """The largest over layers of ``|D - D_ref| / |D_ref|``."""
    expected = reference.changes
    return max(relative_distance(delta.changes[name], expected[name]) for name in expected)
