"""The coordinator: checks contributions and merges them, layer by layer or all at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from collabedit.algebra import (
    Factors,
    LowRankUpdate,
    Missed,
    Prior,
    Statistics,
    missed,
    solve,
)
from collabedit.algebra.sketch import OVERSAMPLING, sketch_matrix
from collabedit.editors import Editor
from collabedit.errors import ContributionError, RoundError
from collabedit.merging import POOLED, MergeMethod, Merges, merge_methods
from collabedit.messages import Contribution, Delta, Normaliser, RoundConfig
from collabedit.rounds.guards import LEAST_PARTIES, outliers
from collabedit.rounds.ledger import Entry, Ledger

if TYPE_CHECKING:
    from collabedit.privacy.secure import Summation, Summed

__all__ = ["Coordinator", "gives_statistics", "merge_deltas", "require_statistics", "require_sum"]

logger = logging.getLogger(__name__)


class Coordinator:
    """One round's coordinator; it holds no requests and needs no model.

    Args:
        config: the round.
        priors: ``A0`` by weight name (:func:`collabedit.rounds.static_priors`).
        method: how to merge.
        options: options of the method; the others have their defaults.
        ledger: record of the exchanges that are already finished, to continue from.
        normaliser: of the features of earlier rounds, if the editor normalises features.

    Attributes:
        ledger: record of the finished exchanges.
        normaliser: of the features of this and earlier rounds; ``None`` until the parties have
            sent theirs.

    Raises:
        RoundError: when a prior is missing or has the wrong width, when the ledger is from another
            round, or when the round does not provide what the method merges.
        InputError: when the method has no such option.
    """

    def __init__(
        self,
        config: RoundConfig,
        priors: Mapping[str, Prior],
        method: MergeMethod,
        *,
        options: Mapping[str, Any] | None = None,
        ledger: Ledger | None = None,
        normaliser: Normaliser | None = None,
    ) -> None:
        self.config = config
        self._earlier = normaliser
        self.normaliser: Normaliser | None = None
        self.method = method
        self.options = method.checked(options or {})
        self.priors = priors
        require_statistics(config.rules, method)
        if method.merges is Merges.UPDATES and not config.one_exchange:
            raise RoundError(
                f"{method.name} merges finished updates, which a {config.schedule.value} round of "
                f"{config.editor} does not provide; let each party edit on its own (collabedit "
                "edit) and merge the deltas"
            )
        require_sum(config, method)
        for name in config.weight_names if config.rules.has_statistics else ():
            if name not in priors:
                raise RoundError(f"no prior for {name}")
        self.ledger = ledger or self._new_ledger()
        self.delta.check_round(config)

    def _new_ledger(self) -> Ledger:
        return Ledger(Delta.empty(self.config, self.method.name, self.options))

    def restart(self) -> None:
        """Discard all finished exchanges."""
        self.ledger = self._new_ledger()

    @property
    def aggregates_securely(self) -> bool:
        """Whether it learns only sums; GLOBAL's single party cannot hide among others."""
        return self.config.secure_aggregation is not None and self.method.name != POOLED

    @property
    def delta(self) -> Delta:
        """The delta so far."""
        return self.ledger.delta

    @property
    def keys(self) -> Mapping[str, Tensor]:
        """By weight name, the pooled key factors ``F [d_in, r]`` of the merged edits."""
        return self.ledger.keys

    @property
    def residual_norms(self) -> Mapping[str, float | None]:
        """By weight name, ``|R|`` (Frobenius) of the merged residuals."""
        return self.ledger.residual_norms

    @property
    def pending_layers(self) -> tuple[int, ...]:
        """The layers of the next exchange; none when the round is complete."""
        return self.config.pending_layers(len(self.delta.changes))

    def normalise(self, parts: Mapping[str, Normaliser]) -> None:
        """Pool the normaliser of all parties' features with those of earlier rounds.

        Args:
            parts: by party name, each party's own, already checked.
        """
        earlier = [] if self._earlier is None else [self._earlier]
        self.normaliser = Normaliser.pool([*parts.values(), *earlier])

    def check(self, party: str, contribution: Contribution) -> None:
        """Check that a contribution belongs to the current exchange.

        Raises:
            ContributionError: when it does not, or exceeds the round's bounds; it names the
                party.
        """
        try:
            contribution.check(self.config, self.delta.sha256, self.pending_layers)
        except ContributionError as error:
            raise ContributionError(str(error), party=party) from None
        self.check_edits(party, contribution.metadata.edits)
        if self.config.bounds is not None:
            for statistics in contribution.statistics.values():
                self.config.bounds.check_rank(party, statistics.keys.shape[1])

    def check_edits(self, party: str, edits: int) -> None:
        """Check a party's number of edits against the round's bounds.

        Raises:
            ContributionError: when there are too many; it names the party.
        """
        if self.config.bounds is not None:
            self.config.bounds.check_edits(party, edits)

    def check_together(self, contributions: Mapping[str, Contribution]) -> tuple[Entry, ...]:
        """Check the contributions of an exchange against each other, and the earlier exchanges.

        Args:
            contributions: each checked already, by each party's name in error messages.

        Returns:
            What the ledger records about them.

        Raises:
            ContributionError: when one must be refused; it names the party.
            RoundError: when a party of the first exchange is missing.
        """
        entries = self.ledger.check_parties(contributions)
        bounds = self.config.bounds
        if bounds is not None and bounds.norm is not None:
            for party, reason in outliers(contributions, bounds.norm).items():
                raise ContributionError(
                    f"{reason}, and the round allows a factor of {bounds.norm:g}", party=party
                )
        return entries

    def _warn(self, contributions: Mapping[str, Contribution]) -> None:
        """Warn about parties out of scale if no bound applies, and if a bound can't be checked."""
        bounds = self.config.bounds
        if bounds is None or bounds.norm is None:
            for party, reason in outliers(contributions).items():
                logger.warning("%s: %s; look at it before you accept the delta", party, reason)
        elif len(contributions) < LEAST_PARTIES:
            logger.warning(
                "the bound on norms was not checked: with %d parties nobody can tell who is out of "
                "line",
                len(contributions),
            )

    def merge(
        self,
        contributions: Mapping[str, Contribution],
        party_weights: Sequence[float] | None = None,
    ) -> Delta:
        """Merge one exchange.

        Args:
            contributions: by each party's name in error messages, such as its file's.
            party_weights: the weight of each party, in order, if the method weights them; their
                numbers of edits by default.

        Returns:
            The delta so far, with the exchange's layers added.

        Raises:
            ContributionError: when a contribution does not belong here; it names the party.
            RoundError: when there are none, when a party is missing, or when nothing is left to
                merge.
            InputError: when the weights do not fit the method or the parties.
        """
        layers = self.pending_layers
        if not layers:
            raise RoundError("the round is complete: all its layers are merged")
        if not contributions:
            raise RoundError("no contributions to merge; give at least one party's")
        for party, contribution in contributions.items():
            self.check(party, contribution)
        entries = self.check_together(contributions)
        self._warn(contributions)
        edits = [entry.edits for entry in entries]
        counted = _party_weights(self.method, edits, party_weights)
        names = [self.config.weight_of(layer) for layer in layers]
        parts = {name: [sent.statistics[name] for sent in contributions.values()] for name in names}
        return self._merge(entries, parts, sum(edits), counted)

    def summation(self) -> Summation:
        """Start the next exchange under secure aggregation.

        Raises:
            RoundError: when the round is complete, or without secure aggregation.
        """
        from collabedit.privacy.secure import Exchanged, Summation

        layers = self.pending_layers
        if not layers:
            raise RoundError("the round is complete: all its layers are merged")
        sketches = {}
        if self.config.sketched:
            for layer in layers:
                name = self.config.weight_of(layer)
                width = self.config.summed_directions + OVERSAMPLING
                sketches[name] = sketch_matrix(self._prior(name), width, self.config.seed + layer)
        exchanged = Exchanged(self.config, self.delta.sha256, layers, sketches)
        return Summation(self.config, self.delta, exchanged)

    def merge_sum(self, summed: Summed) -> Delta:
        """Merge an exchange of which only the sum is known.

        Args:
            summed: the result of the summation.

        Returns:
            The delta so far, with the exchange's layers added.

        Raises:
            RoundError: when its parties are not those of the earlier exchanges.
        """
        entries = {
            sent.party: Entry(
                party=sent.party, sha256=sent.sha256, commitment=sent.commitment, edits=0
            )
            for sent in summed.masked
        }
        self.ledger.check_entries(entries)
        parts = {name: [statistics] for name, statistics in summed.statistics.items()}
        return self._merge(tuple(entries.values()), parts, summed.edits)

    def _merge(
        self,
        entries: tuple[Entry, ...],
        parts: Mapping[str, Sequence[Statistics]],
        edits: int,
        counted: tuple[float, ...] = (),
    ) -> Delta:
        merged = {name: self._merge_weight(name, part, counted) for name, part in parts.items()}
        delta = self._delta(
            {**self.delta.changes, **merged},
            len(entries),
            edits,
            counted,
            self._missed(merged, parts),
        )
        keys, norms = {}, {}
        for name, part in parts.items():
            pooled = Statistics.pool(part)
            keys[name], norms[name] = pooled.key_factor(), pooled.residual_norm
        self.ledger = self.ledger.after(entries, delta, keys, norms)
        return self.delta

    def _merge_weight(
        self, name: str, statistics: Sequence[Statistics], party_weights: Sequence[float]
    ) -> LowRankUpdate:
        prior = self._prior(name)
        ridge = self.config.rules.ridge_of(self.config.hyperparameters)
        if self.method.merges is Merges.SUM:
            return self.method.merge_statistics(statistics, prior, ridge, self.options)
        updates = [solve(factors, prior, ridge) for factors in statistics]
        return self.method.merge_updates(updates, self.options, party_weights, name)

    def _missed(
        self, merged: Mapping[str, LowRankUpdate], parts: Mapping[str, Sequence[Statistics]]
    ) -> Missed | None:
        """Misses of edits that should hold exactly, here or in earlier exchanges."""
        exact = self.config.rules.ridge_of(self.config.hyperparameters) == 0
        if not exact or self.method.merges is not Merges.SUM:
            return None
        earlier = self.delta.metadata
        worst = Missed(earlier.missed_edits, earlier.worst_miss)
        for name, statistics in parts.items():
            factors = [part for part in statistics if isinstance(part, Factors)]
            if len(factors) < len(statistics):
                logger.warning("%s: sums in dense form don't show which edits miss", name)
                continue
            misses = missed(merged[name], factors)
            if misses.count:
                logger.warning(
                    "%s: some edits are not satisfied exactly, since their keys nearly depend on "
                    "each other; combinations of edits missed: %d, the worst by %.0f %% of a "
                    "residual",
                    name,
                    misses.count,
                    100 * misses.worst,
                )
            worst = max(worst, misses, key=lambda some: (some.count, some.worst))
        return worst

    def _prior(self, name: str) -> Prior:
        prior = self.priors[name]
        if prior.size != self.config.d_in:
            raise RoundError(
                f"the prior of {name} is {prior.size} wide; keys are {self.config.d_in}"
            )
        return prior

    def _delta(
        self,
        changes: Mapping[str, LowRankUpdate],
        parties: int,
        edits: int,
        party_weights: Sequence[float] = (),
        missed_: Missed | None = None,
    ) -> Delta:
        return Delta.of(
            self.config,
            changes,
            method=self.method.name,
            options=self.options,
            parties=parties,
            edits=edits,
            party_weights=party_weights,
            missed=missed_,
        )

    def conclude(
        self,
        changes: Mapping[str, LowRankUpdate],
        *,
        parties: int,
        edits: int,
        keys: Mapping[str, Tensor] | None = None,
        residual_norms: Mapping[str, float | None] | None = None,
    ) -> Delta:
        """Finish the round with changes that were not merged from contributions.

        Args:
            changes: by weight name, of all layers.
            parties: number of parties.
            edits: number of their edits.
            keys: by weight name, the keys that they wrote, if known.
            residual_norms: by weight name.
        """
        delta = self._delta(changes, parties, edits)
        self.ledger = self.ledger.after((), delta, keys or {}, residual_norms or {})
        return self.delta


def require_sum(config: RoundConfig, method: MergeMethod) -> None:
    """Check that a method needs only the sum if the round provides only that.

    Raises:
        RoundError: when it needs each party's own update and the round hides it.
    """
    if config.secure_aggregation is not None and method.merges is Merges.UPDATES:
        raise RoundError(
            f"{method.name} merges each party's own update, which secure aggregation hides; "
            "CollabEdit needs only the sum"
        )
    if config.secure_aggregation is not None and config.rules.normalises:
        raise RoundError(
            f"{config.editor} shows the coordinator each party's normaliser, which secure "
            "aggregation does not hide; choose another editor"
        )


def gives_statistics(editor: Editor, method: MergeMethod) -> bool:
    """Whether an editor provides what a method merges; GLOBAL merges nothing."""
    merges_updates = method.merges is Merges.UPDATES
    return merges_updates or method.name == POOLED or editor.has_statistics


def require_statistics(editor: Editor, method: MergeMethod) -> None:
    """Check that an editor provides what a method merges.

    Raises:
        RoundError: when the method merges statistics and the editor has none.
    """
    if not gives_statistics(editor, method):
        others = [other.name for other in merge_methods() if other.merges is Merges.UPDATES]
        raise RoundError(
            f"{method.name} merges statistics, and {editor.name} has none; let each party edit on "
            f"its own (collabedit edit --editor {editor.name}) and merge the deltas by one of: "
            f"{', '.join(others)}"
        )


def merge_deltas(
    deltas: Mapping[str, Delta],
    method: MergeMethod,
    options: Mapping[str, Any] | None = None,
    party_weights: Sequence[float] | None = None,
) -> Delta:
    """Merge the parties' finished deltas, as in ordinary model merging.

    Args:
        deltas: by each party's name in error messages.
        method: one that merges updates.
        options: options of the method.
        party_weights: the weight of each party, in order, if the method weights them; their
            numbers of edits by default.

    Raises:
        RoundError: when the method merges statistics, a delta is unfinished, or they differ in
            the model or in the weights they change.
        InputError: when the weights do not fit the method or the parties.
    """
    if method.merges is not Merges.UPDATES:
        raise RoundError(
            f"{method.name} merges the parties' statistics, not their finished deltas; "
            "give it contributions (collabedit contribute)"
        )
    if not deltas:
        raise RoundError("no deltas to merge; give at least one party's")
    (first_name, first), *others = deltas.items()
    for name, delta in deltas.items():
        try:
            delta.require_complete()
        except RoundError as error:
            raise RoundError(str(error), party=name) from None
    for name, delta in others:
        if delta.metadata.model_sha256 != first.metadata.model_sha256:
            raise RoundError(f"{name} and {first_name} change different models or layers")
    chosen = method.checked(options or {})
    edits = [delta.metadata.edits for delta in deltas.values()]
    counted = _party_weights(method, edits, party_weights)
    changes = {
        name: method.merge_updates(
            [delta.changes[name] for delta in deltas.values()], chosen, counted, name
        )
        for name in first.changes
    }
    metadata = first.metadata.model_copy(
        update={
            "method": method.name,
            "options": chosen,
            "parties": len(deltas),
            "edits": sum(edits),
            "party_weights": counted,
            "after_merge": (),  # of the parties' own changes, if any
        }
    )
    return Delta(metadata, changes)


def _party_weights(
    method: MergeMethod, edits: Sequence[int], given: Sequence[float] | None
) -> tuple[float, ...]:
    """The parties' weights: as given, or their numbers of edits; none if the method has none."""
    if given is None:
        return tuple(map(float, edits)) if method.weighted else ()
    method.check_weights(given, len(edits))
    return tuple(map(float, given))
