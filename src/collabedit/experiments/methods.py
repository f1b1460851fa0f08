"""The delta of each merge method, all from the same targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from collabedit.algebra import Prior, relative_distance
from collabedit.experiments.runs import Run
from collabedit.merging import MergeMethod, Merges, resolve_method
from collabedit.rounds import Coordinator, Delta, Party, RoundConfig, Schedule, run_round
from collabedit.rounds.coordinator import merge_deltas

__all__ = ["distances", "merged_delta"]

_POOLED = "GLOBAL"


def merged_delta(
    method: MergeMethod,
    parties: Sequence[Party],
    config: RoundConfig,
    priors: Mapping[str, Prior],
    run: Run,
) -> Delta:
    """What a method makes of the parties' edits; a finished stage is not computed again.

    In the one-shot schedule all methods start from the same uploads. In the sequential one, the
    methods that merge updates get what users of model merging have: each party's delta, edited
    alone to the end.
    """

    def compute() -> Delta:
        if method.name == _POOLED:
            return run_round([Party.pooled(parties)], Coordinator(config, priors, method))
        if method.merges is Merges.UPDATES and config.schedule is Schedule.SEQUENTIAL:
            return merge_deltas(_own_deltas(parties, config, priors, run), method)
        return run_round(parties, Coordinator(config, priors, method))

    return run.delta_stage(f"deltas/{method.name}", compute)


def _own_deltas(
    parties: Sequence[Party], config: RoundConfig, priors: Mapping[str, Prior], run: Run
) -> dict[str, Delta]:
    def alone(party: Party) -> Delta:
        return run_round([party], Coordinator(config, priors, resolve_method(_POOLED)))

    return {
        f"party {index}": run.delta_stage(f"deltas/party_{index}", partial(alone, party))
        for index, party in enumerate(parties)
    }


def distances(deltas: Mapping[str, Delta]) -> dict[str, float]:
    """By method, the largest over layers of ``|D - D_GLOBAL| / |D_GLOBAL|``.

    Empty when GLOBAL is not among the methods.
    """
    if _POOLED not in deltas:
        return {}
    reference = deltas[_POOLED].changes
    return {
        name: max(relative_distance(delta.changes[w], reference[w]) for w in reference)
        for name, delta in deltas.items()
    }
