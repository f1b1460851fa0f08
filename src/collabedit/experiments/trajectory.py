"""One method's trajectory over several rounds, each on the model after its earlier rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict, cast

from collabedit.collaboration import distance, merge_edits
from collabedit.experiments.study import Study
from collabedit.merging import POOLED, Merges, resolve_method
from collabedit.messages import RoundState
from collabedit.requests import EditRequest
from collabedit.rounds import dynamic_priors

__all__ = ["RoundFacts", "Trajectory", "trajectories"]


class RoundFacts(TypedDict):
    """Facts about a finished round.

    ``residual_norms`` is by weight name, ``|R|`` (Frobenius) of all parties' residuals; empty for
    methods that merge finished updates. ``distance_from_pooled`` is the largest over layers of
    ``|D - D_pooled| / |D_pooled|``, with the pooled edit of the same targets on the same model;
    ``None`` if not requested.
    """

    edits: int
    skipped: int
    residual_norms: dict[str, float | None]
    distance_from_pooled: float | None


@dataclass(frozen=True)
class Trajectory:
    """A method and its treatment of finished rounds.

    Attributes:
        name: in tables and files.
        method: the merge method's name.
        beta: weight of the finished rounds' keys in the prior; zero is the static covariance.
        skip_known: have parties skip facts that the model gives this probability.
        against_pooled: measure each round's distance from the pooled edit on the same model.
    """

    name: str
    method: str
    beta: float = 0.0
    skip_known: float | None = None
    against_pooled: bool = False

    def follow(
        self, study: Study, rounds: Sequence[Sequence[Sequence[EditRequest]]]
    ) -> Iterator[RoundState]:
        """The state after each round; finished rounds are read from the run.

        Targets are optimised on the model after the earlier rounds.

        Args:
            study: the open study.
            rounds: each round's requests of each party.
        """
        state = RoundState()
        for shares in rounds:
            own = study.run.state_stage(
                f"states/{self._stage(state.finished + 1)}",
                partial(self._next, study, shares, state),
            )
            state = state.after(own.changes, own.keys, own.normaliser)
            yield state

    def about(self, study: Study, number: int) -> RoundFacts:
        """Facts about a finished round.

        Args:
            study: the open study.
            number: of the round, from 1.
        """
        return cast(RoundFacts, study.run.read_stage(f"facts/{self._stage(number)}"))

    def _stage(self, number: int) -> str:
        return f"{self.name}/round_{number}"

    def _next(
        self, study: Study, shares: Sequence[Sequence[EditRequest]], state: RoundState
    ) -> RoundState:
        """The change of one more round alone, so that files do not grow with the rounds."""
        with study.model.starting_from(state.changes):
            config = study.round_config()
            parties = study.parties(shares, config, self.skip_known)
            edits = sum(len(party.requests) for party in parties)
            facts: RoundFacts = {
                "edits": edits,
                "skipped": sum(map(len, shares)) - edits,
                "residual_norms": {},
                "distance_from_pooled": None,
            }
            own = RoundState(finished=1)
            if parties:
                priors = dynamic_priors(study.priors, state.keys, self.beta)
                merge = partial(
                    merge_edits,
                    parties=parties,
                    config=config,
                    priors=priors,
                    normaliser=state.normaliser,
                    after_merge=study.settings.after_merge,
                    earlier=state.changes,
                )
                merged = merge(resolve_method(self.method))
                facts["residual_norms"] = dict(merged.residual_norms)
                own = RoundState().after(merged.delta.changes, merged.keys, merged.normaliser)
                if self.against_pooled:
                    pooled = merge(resolve_method(POOLED)).delta
                    facts["distance_from_pooled"] = distance(merged.delta, pooled)
        study.run.json_stage(f"facts/{self._stage(state.finished + 1)}", lambda: facts)
        return own


def trajectories(methods: Sequence[str], betas: Sequence[float]) -> list[Trajectory]:
    """A trajectory for each method, and for each ``beta`` if the method pools statistics.

    Methods that merge finished updates can't use ``beta``, since nobody holds the keys. The others
    are compared with the pooled edit if GLOBAL is among the methods.
    """
    result = []
    for name in methods:
        if resolve_method(name).merges is Merges.UPDATES:
            result.append(Trajectory(name, name))
            continue
        for beta in betas:
            label = name if len(betas) == 1 else f"{name} beta={beta:.15g}"
            against_pooled = POOLED in methods and name != POOLED
            result.append(Trajectory(label, name, beta, against_pooled=against_pooled))
    return result
