"""The coordinator: it checks what parties send and merges it, layer by layer or all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from collabedit.algebra import Factors, LowRankUpdate, Prior, solve
from collabedit.editing.editors import Editor
from collabedit.errors import RoundError, UpdateError
from collabedit.merging import POOLED, MergeMethod, Merges, merge_methods
from collabedit.rounds.config import RoundConfig
from collabedit.rounds.delta import Delta
from collabedit.rounds.update import EditUpdate

__all__ = ["Coordinator", "gives_statistics", "merge_deltas", "require_statistics"]


class Coordinator:
    """One round's coordinator; it holds no requests and needs no model.

    Args:
        config: the round.
        priors: ``A0`` by weight name (:meth:`RoundConfig.priors`).
        method: how to merge.
        options: of the method; its defaults where not given.
        delta: what an earlier exchange of the round has merged.

    Attributes:
        keys: by weight name, the pooled key factors ``F [d_in, r]`` of what it has merged, which
            the dynamic covariance of a later round needs.
        residual_norms: by weight name, ``|R|`` (Frobenius) of the residuals that it has merged.

    Raises:
        RoundError: when a prior is missing or of another width, when the delta is of another
            round, or when the round does not give what the method merges.
        InputError: when the method has no such option.
    """

    def __init__(
        self,
        config: RoundConfig,
        priors: Mapping[str, Prior],
        method: MergeMethod,
        *,
        options: Mapping[str, float] | None = None,
        delta: Delta | None = None,
    ) -> None:
        self.config = config
        self.method = method
        self.options = method.checked(options or {})
        self.priors = priors
        require_statistics(config.rules, method)
        if method.merges is Merges.UPDATES and not config.one_exchange:
            raise RoundError(
                f"{method.name} merges finished updates, which a {config.schedule.value} round of "
                f"{config.editor} does not give; let each party edit alone (collabedit edit) and "
                "merge the deltas"
            )
        for name in config.weights if config.rules.has_statistics else ():
            if name not in priors:
                raise RoundError(f"no prior for {name}")
        self.delta = delta or Delta.empty(config, method.name, self.options)
        self.delta.check_round(config)
        self.keys: dict[str, Tensor] = {}
        self.residual_norms: dict[str, float] = {}

    @property
    def pending_layers(self) -> tuple[int, ...]:
        """The layers of the next exchange; none when the round is complete."""
        return self.config.pending_layers(len(self.delta.changes))

    def merge(
        self, updates: Mapping[str, EditUpdate], weights: Sequence[float] | None = None
    ) -> Delta:
        """Merge one exchange.

        Args:
            updates: by a name for each party that complaints can use, such as its file's.
            weights: how much each party counts, in their order, where the method weighs them; by
                their numbers of edits where not given.

        Returns:
            The delta so far, with the exchange's layers added.

        Raises:
            UpdateError: when an update does not belong here; it names the party.
            RoundError: when there are no updates, or nothing is left to merge.
            InputError: when the weights do not fit the method or the parties.
        """
        layers = self.pending_layers
        if not layers:
            raise RoundError("the round is complete: all its layers are merged")
        if not updates:
            raise RoundError("no updates to merge; give at least one party's")
        for party, update in updates.items():
            try:
                update.check(self.config, self.delta.sha256, layers)
            except UpdateError as error:
                raise UpdateError(f"{party}: {error}") from None
        edits = [update.metadata.edits for update in updates.values()]
        counted = _weights(self.method, edits, weights)
        merged = {
            name: self._merge_weight(name, list(updates.values()), counted)
            for name in map(self.config.weight_of, layers)
        }
        return self.conclude(
            {**self.delta.changes, **merged},
            parties=len(updates),
            edits=sum(edits),
            weights=counted,
        )

    def _merge_weight(
        self, name: str, updates: Sequence[EditUpdate], weights: Sequence[float]
    ) -> LowRankUpdate:
        statistics = [update.statistics[name] for update in updates]
        prior = self._prior(name)
        ridge = self.config.rules.ridge_of(self.config.hyperparameters)
        pooled = Factors.stack(statistics)
        self.keys[name], self.residual_norms[name] = pooled.keys, float(pooled.residuals.norm())
        if self.method.merges is Merges.STATISTICS:
            return self.method.merge_statistics(statistics, prior, ridge)
        own = [solve(factors, prior, ridge) for factors in statistics]
        return self.method.merge_updates(own, self.options, weights)

    def _prior(self, name: str) -> Prior:
        prior = self.priors[name]
        if prior.size != self.config.d_in:
            raise RoundError(
                f"the prior of {name} is {prior.size} wide; keys are {self.config.d_in}"
            )
        return prior

    def conclude(
        self,
        changes: Mapping[str, LowRankUpdate],
        *,
        parties: int,
        edits: int,
        weights: Sequence[float] = (),
    ) -> Delta:
        """Take these changes for the round's so far.

        Args:
            changes: by weight name, of the lowest layers.
            parties: number of parties behind them.
            edits: number of their edits.
            weights: how much each party counted, where the method weighs them.
        """
        self.delta = Delta.of(
            self.config,
            changes,
            method=self.method.name,
            options=self.options,
            parties=parties,
            edits=edits,
            weights=weights,
        )
        return self.delta


def gives_statistics(editor: Editor, method: MergeMethod) -> bool:
    """Whether an editor gives what a method merges; GLOBAL merges nothing."""
    merges_updates = method.merges is Merges.UPDATES
    return merges_updates or method.name == POOLED or editor.has_statistics


def require_statistics(editor: Editor, method: MergeMethod) -> None:
    """Check that an editor gives what a method merges.

    Raises:
        RoundError: when the method merges statistics and the editor has none.
    """
    if not gives_statistics(editor, method):
        others = [other.name for other in merge_methods() if other.merges is Merges.UPDATES]
        raise RoundError(
            f"{method.name} merges statistics, and {editor.name} has none; let each party edit "
            f"alone (collabedit edit --editor {editor.name}) and merge the deltas by one of: "
            f"{', '.join(others)}"
        )


def merge_deltas(
    deltas: Mapping[str, Delta],
    method: MergeMethod,
    options: Mapping[str, float] | None = None,
    weights: Sequence[float] | None = None,
) -> Delta:
    """Merge the parties' finished deltas, as users of model merging do.

    Args:
        deltas: by a name for each party that complaints can use.
        method: one that merges updates.
        options: of the method.
        weights: how much each party counts, in their order, where the method weighs them; by their
            numbers of edits where not given.

    Raises:
        RoundError: when the method merges statistics, a delta is unfinished, or they differ in
            the model or in the weights they change.
        InputError: when the weights do not fit the method or the parties.
    """
    if method.merges is not Merges.UPDATES:
        raise RoundError(
            f"{method.name} merges the parties' statistics, not their finished deltas; "
            "give it update files (collabedit update)"
        )
    if not deltas:
        raise RoundError("no deltas to merge; give at least one party's")
    (first_name, first), *others = deltas.items()
    for name, delta in deltas.items():
        try:
            delta.require_complete()
        except RoundError as error:
            raise RoundError(f"{name}: {error}") from None
    for name, delta in others:
        if delta.metadata.model_sha256 != first.metadata.model_sha256:
            raise RoundError(f"{name} and {first_name} change different models or layers")
    chosen = method.checked(options or {})
    edits = [delta.metadata.edits for delta in deltas.values()]
    counted = _weights(method, edits, weights)
    changes = {
        name: method.merge_updates([d.changes[name] for d in deltas.values()], chosen, counted)
        for name in first.changes
    }
    metadata = first.metadata.model_copy(
        update={
            "method": method.name,
            "options": chosen,
            "parties": len(deltas),
            "edits": sum(edits),
            "weights": counted,
        }
    )
    return Delta(metadata, changes)


def _weights(
    method: MergeMethod, edits: Sequence[int], given: Sequence[float] | None
) -> tuple[float, ...]:
    """How much each party counts: as given, or by its edits; none where the method weighs none."""
    if given is None:
        return tuple(map(float, edits)) if method.weighted else ()
    method.check_weights(given, len(edits))
    return tuple(map(float, given))
