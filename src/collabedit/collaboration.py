"""Editing a model, alone or together: the whole job in one call.

:func:`edit` and :func:`collaborate` take a model and facts in any form and do the rest with
sensible defaults. :func:`merge_edits` and :func:`edit_alone` are what studies compare.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate, Prior, relative_distance
from collabedit.covariance import default_covariance
from collabedit.editing import find_targets
from collabedit.editors import DEFAULT_EDITOR
from collabedit.evaluation.outcomes import Outcomes, ask_edits, outcomes
from collabedit.export import save_edited_model
from collabedit.export.gguf_model import save_gguf
from collabedit.merging import POOLED, AfterMergeStep, MergeMethod, Merges, resolve_method
from collabedit.messages import Covariance, Delta, Normaliser, RoundConfig, Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, apply_delta, new_round
from collabedit.progress import plan
from collabedit.progress.plans import EDIT
from collabedit.requests import Facts, Record, as_records
from collabedit.rounds import Coordinator, merge_deltas, static_priors
from collabedit.transports import run_in_process

__all__ = [
    "EditResult",
    "Merged",
    "collaborate",
    "distance",
    "distances",
    "edit",
    "edit_alone",
    "edit_and_ask",
    "find_delta",
    "merge_edits",
]

#: A second pass gives an edit's target so many times the steps, and this share of the loss at which
#: it is finished.
_MORE_STEPS, _LOWER_LOSS = 4, 0.2


@dataclass(frozen=True)
class EditResult:
    """An edited model, and the change that made it.

    Attributes:
        model: the edited model; ``model.hf`` is the ``transformers`` model.
        delta: the change of its weights.
        outcomes: what came of each edit, asked raw and in chat, before and after; ``None`` if
            nobody asked.
    """

    model: LanguageModel
    delta: Delta
    outcomes: Outcomes | None = None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Save the edited model as a directory or a .gguf file, or the delta as .safetensors.

        Args:
            path: of the directory or the file.
            overwrite: replace a model that is there already.

        Raises:
            InputError: when it cannot be written.
        """
        if os.fspath(path).endswith(".safetensors"):
            self.delta.save(path)
        elif os.fspath(path).endswith(".gguf"):
            save_gguf(self.delta, Path(path), self.model.name, overwrite=overwrite)
        else:
            save_edited_model(self.model, self.delta, path, overwrite=overwrite, applied=True)

    def __str__(self) -> str:
        about = self.delta.metadata
        layers = ", ".join(map(str, about.layers))
        parties = "1 party" if about.parties == 1 else f"{about.parties} parties"
        edits = "1 edit" if about.edits == 1 else f"{about.edits} edits"
        made = f"{about.model}: {edits} of {parties} by {about.editor}, layers {layers}"
        return made if self.outcomes is None else f"{made}; {self.outcomes}"


def edit(
    model: str | os.PathLike[str] | LanguageModel,
    facts: Facts,
    *,
    editor: str = DEFAULT_EDITOR,
    schedule: Schedule = Schedule.LAYERWISE,
    covariance: Covariance | str | os.PathLike[str] | None = None,
    seed: int = 0,
    ask: bool = True,
    retry: bool = False,
) -> EditResult:
    """Write facts into a model.

    Args:
        model: a built-in name, a path, a Hub id, or a loaded model, whose weights then change.
        facts: dictionaries in any request form, requests, records, or the path of a file of them.
        editor: name of the editor.
        schedule: how residuals reach the layers.
        covariance: second moments of the model's activations on ordinary text, or their file; by
            default they are collected once, on text that the model writes, and cached.
        seed: of the sampling of contexts.
        ask: ask for each edit before and after, raw and in chat, and say which took.
        retry: give those that did not take one more pass, with more steps.

    Raises:
        CollabEditError: when the model cannot be edited, or a fact cannot be used.
    """
    return collaborate(
        model,
        {"": facts},
        editor=editor,
        schedule=schedule,
        covariance=covariance,
        seed=seed,
        ask=ask,
        retry=retry,
    )


def collaborate(
    model: str | os.PathLike[str] | LanguageModel,
    parties: Mapping[str, Facts],
    *,
    method: str = "CollabEdit",
    editor: str = DEFAULT_EDITOR,
    schedule: Schedule = Schedule.LAYERWISE,
    covariance: Covariance | str | os.PathLike[str] | None = None,
    seed: int = 0,
    ask: bool = True,
    retry: bool = False,
) -> EditResult:
    """Write the facts of several parties into a model, as one party holding all of them would.

    All parties are in this process; between organisations, each makes its contribution on its own
    machine (``collabedit contribute``).

    Args:
        model: a built-in name, a path, a Hub id, or a loaded model, whose weights then change.
        parties: each party's facts, in any form that :func:`edit` takes.
        method: name of the merge method.
        editor: name of the editor.
        schedule: how residuals reach the layers.
        covariance: as :func:`edit` takes it.
        seed: of the sampling of contexts.
        ask: as :func:`edit` takes it.
        retry: as :func:`edit` takes it.

    Raises:
        CollabEditError: when the model cannot be edited, or a fact cannot be used.
    """
    merging = resolve_method(method)
    records = {name: as_records(facts) for name, facts in parties.items()}
    with plan(EDIT):
        loaded = model if isinstance(model, LanguageModel) else load_model(os.fspath(model))
        config = new_round(loaded, editor=editor, schedule=schedule, seed=seed)
        delta, came = find_delta(
            loaded, records, config, merging, covariance=covariance, ask=ask, retry=retry
        )
    apply_delta(loaded, delta)
    return EditResult(loaded, delta, came)


def find_delta(
    model: LanguageModel,
    parties: Mapping[str, Sequence[Record]],
    config: RoundConfig,
    method: MergeMethod,
    *,
    covariance: Covariance | str | os.PathLike[str] | None = None,
    ask: bool = True,
    retry: bool = False,
) -> tuple[Delta, Outcomes | None]:
    """What writes the records of parties into a model, which stays as it is.

    Args:
        model: the round's, unedited.
        parties: each party's records.
        config: the round.
        method: how to merge.
        covariance: as :func:`edit` takes it.
        ask: as :func:`edit` takes it.
        retry: as :func:`edit` takes it.

    Returns:
        The delta, and what came of each edit if it was asked.

    Raises:
        CollabEditError: when the model cannot be edited, or a record cannot be used.
    """
    requests = {name: [record.request for record in own] for name, own in parties.items()}
    members = Party.together(model, list(requests.values()), config, list(requests))
    priors = static_priors(config, _covariance(covariance, model, config, config.seed))
    if not ask:
        return merge_edits(method, members, config, priors).delta, None
    flat = [record for own in parties.values() for record in own]
    return edit_and_ask(method, members, flat, config, priors, retry=retry)


def _covariance(
    given: Covariance | str | os.PathLike[str] | None,
    model: LanguageModel,
    config: RoundConfig,
    seed: int,
) -> Covariance | None:
    needed = config.rules.needs_covariance(config.hyperparameters)
    if not needed or isinstance(given, Covariance):
        return given if isinstance(given, Covariance) else None
    if given is None:
        return default_covariance(model, config.layers, seed)
    return Covariance.load(given)


@dataclass(frozen=True)
class Merged:
    """What a round comes to.

    Attributes:
        delta: the change of the weights.
        keys: by weight name, the pooled key factors ``F [d_in, r]``; none for methods that merge
            finished updates, since nobody pools statistics there.
        residual_norms: by weight name, ``|R|`` (Frobenius) of the residuals; likewise.
        normaliser: of the features of this and earlier rounds, where the editor normalises them.
    """

    delta: Delta
    keys: Mapping[str, Tensor] = field(default_factory=dict)
    residual_norms: Mapping[str, float | None] = field(default_factory=dict)
    normaliser: Normaliser | None = None


def merge_edits(
    method: MergeMethod,
    parties: Sequence[Party],
    config: RoundConfig,
    priors: Mapping[str, Prior],
    own_deltas: Callable[[], Mapping[str, Delta]] | None = None,
    normaliser: Normaliser | None = None,
    after_merge: Sequence[AfterMergeStep] = (),
    earlier: Mapping[str, LowRankUpdate] | None = None,
) -> Merged:
    """Merge the parties' edits by a method, and take the steps after merging.

    In the one-shot schedule all methods start from the same uploads. In the layerwise one, and
    with editors that take one edit at a time or fine-tune, the methods that merge updates get what
    users of model merging have: each party's delta, edited alone to the end.

    Args:
        method: how to merge.
        parties: with their targets.
        config: the round.
        priors: ``A0`` by weight name.
        own_deltas: gives the parties' own deltas; they are computed where it is not given.
        normaliser: of the features of earlier rounds, where the editor normalises features.
        after_merge: what is done to the merged changes.
        earlier: what earlier rounds changed, by weight name; such steps may need it.
    """
    merged = _merged(method, parties, config, priors, own_deltas, normaliser)
    if not after_merge:
        return merged
    weights = {name: parties[0].model.weight(name) for name in config.weight_names}
    return replace(merged, delta=merged.delta.after(after_merge, weights, earlier))


def _merged(
    method: MergeMethod,
    parties: Sequence[Party],
    config: RoundConfig,
    priors: Mapping[str, Prior],
    own_deltas: Callable[[], Mapping[str, Delta]] | None,
    normaliser: Normaliser | None,
) -> Merged:
    if method.merges is Merges.UPDATES and not config.one_exchange:
        own = own_deltas or (lambda: _own_deltas(parties, config, priors))
        return Merged(merge_deltas(own(), method))
    together = [Party.pooled(parties)] if method.name == POOLED else parties
    coordinator = Coordinator(config, priors, method, normaliser=normaliser)
    delta = run_in_process(together, coordinator)
    if method.merges is Merges.UPDATES:
        return Merged(delta, normaliser=coordinator.normaliser)
    return Merged(delta, coordinator.keys, coordinator.residual_norms, coordinator.normaliser)


def edit_and_ask(
    method: MergeMethod,
    parties: Sequence[Party],
    records: Sequence[Record],
    config: RoundConfig,
    priors: Mapping[str, Prior],
    *,
    retry: bool,
) -> tuple[Delta, Outcomes]:
    """Merge the parties' edits, and ask for each edit before and after.

    Args:
        method: how to merge.
        parties: with all their edits.
        records: those of all parties' edits, party by party.
        config: the round.
        priors: ``A0`` by weight name.
        retry: give the edits that did not take a second pass, whose targets are sought longer. It
            counts only if more edits take then.

    Returns:
        The delta, which is not applied, and what came of the edits.

    Raises:
        RequestError: when a prompt leaves the model's context no room for an answer.
    """
    model = parties[0].model
    before = ask_edits(model, records)

    def attempt(members: Sequence[Party]) -> tuple[Delta, Outcomes]:
        delta = merge_edits(method, members, config, priors).delta
        with model.edited(delta.changes):
            return delta, outcomes(records, before, ask_edits(model, records))

    delta, came = attempt(parties)
    failed = came.failed
    if not (retry and failed and config.rules.at_once):
        return delta, came
    second, again = attempt(_with_more_steps(parties, config, failed))
    better = len(again.failed) < len(failed)
    kept = (second, again) if better else (delta, came)
    return kept[0], replace(kept[1], retried=len(failed))


def _with_more_steps(
    parties: Sequence[Party], config: RoundConfig, places: Sequence[int]
) -> list[Party]:
    """The same parties, where some edits' targets are sought longer; places count all edits.

    The other edits of their subjects go with them, since they share a change.
    """
    model, settings = parties[0].model, config.hyperparameters
    requests = [request for party in parties for request in party.requests]
    owners = [number for number, party in enumerate(parties) for _ in party.requests]
    subjects = [(owner, r.subject) for owner, r in zip(owners, requests, strict=True)]
    failed = {subjects[place] for place in places}
    chosen = [place for place, subject in enumerate(subjects) if subject in failed]
    targets = torch.cat([party.targets for party in parties], dim=1).clone()
    longer = settings.with_changes(
        target_steps=_MORE_STEPS * settings.target_steps,
        loss_threshold=_LOWER_LOSS * settings.loss_threshold,
    )
    targets[:, chosen] = find_targets(
        model,
        [requests[place] for place in chosen],
        config.contexts,
        longer,
        owners=[owners[place] for place in chosen],
    )
    shares = targets.split([len(party.requests) for party in parties], dim=1)
    return [
        Party(model, party.requests, config, targets=share, name=party.name)
        for party, share in zip(parties, shares, strict=True)
    ]


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
