"""Opening a round on a model, and checking that a model is a round's."""

from __future__ import annotations

import random

from collabedit.datasets import load_dataset
from collabedit.editing import TargetCache, default_contexts, measured_anchor
from collabedit.editors import (
    DEFAULT_EDITOR,
    Contexts,
    Hyperparameters,
    default_hyperparameters,
    resolve_editor,
)
from collabedit.errors import InputError, RoundError
from collabedit.messages import (
    Bounds,
    Gate,
    RoundConfig,
    RoundState,
    Schedule,
    SecureAggregation,
)
from collabedit.models.language_model import LanguageModel

__all__ = ["check_round_model", "new_round", "round_on"]

#: Number of facts whose values' mean norm is the anchor of NAS; any public facts will do.
_ANCHOR_DATA, _ANCHOR_FACTS = "worldfacts", 60


def new_round(
    model: LanguageModel,
    *,
    editor: str = DEFAULT_EDITOR,
    schedule: Schedule = Schedule.LAYERWISE,
    hyperparameters: Hyperparameters | None = None,
    contexts: Contexts | None = None,
    seed: int = 0,
    state: RoundState | None = None,
    secure_aggregation: SecureAggregation | None = None,
    bounds: Bounds | None = None,
    gate: Gate | None = None,
) -> RoundConfig:
    """Make a round's configuration.

    Args:
        model: the model at the start of the round: unedited, or with the edits of earlier rounds.
        editor: name of the editor, case-insensitive.
        schedule: how residuals reach the layers.
        hyperparameters: settings; the model's preset by default.
        contexts: template groups; :func:`collabedit.editing.default_contexts` by default.
        seed: for sampling the contexts.
        state: the state after earlier rounds, unless this is the first one.
        secure_aggregation: settings of secure aggregation; none by default.
        bounds: upper bounds on a contribution.
        gate: limits for the parties' trials of the merged model.

    Raises:
        UnknownNameError: when there is no such editor.
        InputError: when it cannot edit with these settings, the state does not fit, or there are
            bounds where only sums are seen.
        ModelError: when the model lacks a layer, or its layers do not add the outputs of the edited
            weights.
    """
    rules = resolve_editor(editor)
    settings = (
        hyperparameters
        or default_hyperparameters(model.name, model.structure, editor).hyperparameters
    )
    rules.check(settings)
    if secure_aggregation is not None and not rules.at_once:
        raise InputError(
            f"{rules.name} does not edit by sums of statistics, so secure aggregation has nothing "
            "to sum; use MEMIT, PMET, AlphaEdit, or EMMET with a single layer"
        )
    if bounds is not None and secure_aggregation is not None:
        raise InputError(
            "bounds on a party's contribution can't be checked under secure aggregation, which "
            "hides it; use the gate"
        )
    if model.structure.experts is not None and rules.normalises:
        raise InputError(
            f"{model.name} is a mixture of experts, and {rules.name} normalises the features of "
            "all tokens alike, but an expert has none for tokens that it does not see; use MEMIT "
            "or AlphaEdit"
        )
    settings.check_depth(model.structure.n_layers)
    model.check_layers(settings.layers)
    contexts = contexts or default_contexts(model, seed)
    settings = _with_anchor(model, settings, contexts, first=state is None or not state.finished)
    names = model.weight_names(settings.layers)
    fingerprint = model.fingerprint(names)
    return RoundConfig(
        model=model.name,
        model_sha256=fingerprint,
        schedule=schedule,
        editor=rules.name,
        hyperparameters=settings,
        contexts=contexts,
        seed=seed,
        dtype=str(model.dtype).removeprefix("torch."),
        weight_names=tuple(names),
        d_in=model.structure.mlp_size,
        d_out=model.structure.hidden_size,
        experts=model.structure.experts,
        state_sha256="" if state is None else state.sha256,
        base_sha256={} if state is None else _base(state, fingerprint),
        secure_aggregation=secure_aggregation,
        bounds=bounds,
        gate=gate,
    )


def _with_anchor(
    model: LanguageModel, settings: Hyperparameters, contexts: Contexts, *, first: bool
) -> Hyperparameters:
    """The settings with a measured anchor, if one was requested."""
    if settings.norm_anchor != 0:
        return settings
    if not first:
        raise InputError(
            "norm_anchor is measured on the unedited model, and this round follows earlier ones; "
            "give the number in the first round's round.json"
        )
    facts = random.Random(0).sample(load_dataset(_ANCHOR_DATA), _ANCHOR_FACTS)
    requests = [record.request for record in facts]
    anchor = measured_anchor(model, requests, contexts, settings, TargetCache())
    return settings.with_changes(norm_anchor=anchor)


def _base(state: RoundState, fingerprint: dict[str, str]) -> dict[str, str]:
    """The hashes of the weights before the first round; empty if this is the first one."""
    if not state.finished:
        return {}
    base = {name: state.base_sha256.get(name, "") for name in fingerprint}
    if "" in base.values():
        raise InputError(
            "the state has no record of these layers' weights before the first round; all rounds "
            "of a state must edit the same layers"
        )
    if base == fingerprint:
        raise InputError(
            "the model is the one before the first round; give the model with the delta of the "
            "last round applied (collabedit apply)"
        )
    return base


def round_on(config: RoundConfig, model: LanguageModel) -> RoundConfig:
    """The same round on the model as it is now, after earlier edits."""
    values = config.model_dump(exclude={"model_sha256"})
    return RoundConfig(**values, model_sha256=model.fingerprint(config.weight_names))


def check_round_model(config: RoundConfig, model: LanguageModel) -> None:
    """Check that a model is the round's, and unedited.

    Raises:
        RoundError: when it is loaded in another type or has other weights.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != config.dtype:
        raise RoundError(
            f"the round edits {config.model} in {config.dtype}; load it in that type, not {dtype}"
        )
    if model.fingerprint(model.weight_names(config.layers)) != config.model_sha256:
        raise RoundError(
            f"{model.name} is not the model of this round ({config.model}): "
            "its weights at the edited layers differ"
        )
