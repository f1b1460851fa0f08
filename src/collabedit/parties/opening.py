"""Opening a round on a model, and checking that a model is a round's."""

from __future__ import annotations

from collabedit.editing import sample_contexts
from collabedit.editors import (
    DEFAULT_EDITOR,
    Contexts,
    Hyperparameters,
    default_hyperparameters,
    resolve_editor,
)
from collabedit.errors import InputError, RoundError
from collabedit.messages import RoundConfig, RoundState, Schedule, SecureAggregation
from collabedit.models.language_model import LanguageModel

__all__ = ["check_round_model", "new_round", "round_on"]


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
) -> RoundConfig:
    """Make a round's configuration.

    Args:
        model: the model as the round finds it: unedited, or with what earlier rounds wrote.
        editor: name of the editor, in any case of letters.
        schedule: how residuals reach the layers.
        hyperparameters: settings; the model's preset by default.
        contexts: template groups; sampled from the model under ``seed`` by default.
        seed: of that sampling.
        state: what earlier rounds left, where this is not the first one.
        secure_aggregation: how the coordinator learns only sums; none by default.

    Raises:
        UnknownNameError: when there is no such editor.
        InputError: when it cannot edit with these settings, or the state does not fit.
        ModelError: when the model lacks a layer, or its layers do not add what the edited weights
            give.
    """
    rules = resolve_editor(editor)
    settings = (
        hyperparameters
        or default_hyperparameters(model.name, model.structure, editor).hyperparameters
    )
    rules.check(settings)
    if secure_aggregation is not None and not (rules.has_statistics and rules.at_once):
        raise InputError(
            f"{rules.name} does not edit by sums of statistics, so secure aggregation has nothing "
            "to sum; use MEMIT, PMET, AlphaEdit, or EMMET with a single layer"
        )
    settings.check_depth(model.structure.n_layers)
    model.check_layers(settings.layers)
    names = model.weight_names(settings.layers)
    fingerprint = model.fingerprint(names)
    return RoundConfig(
        model=model.name,
        model_sha256=fingerprint,
        schedule=schedule,
        editor=rules.name,
        hyperparameters=settings,
        contexts=contexts or sample_contexts(model, seed),
        seed=seed,
        dtype=str(model.dtype).removeprefix("torch."),
        weight_names=tuple(names),
        d_in=model.structure.mlp_size,
        d_out=model.structure.hidden_size,
        state_sha256="" if state is None else state.sha256,
        base_sha256={} if state is None else _base(state, fingerprint),
        secure_aggregation=secure_aggregation,
    )


def _base(state: RoundState, fingerprint: dict[str, str]) -> dict[str, str]:
    """The hashes of the weights before the first round; none if this is the first one."""
    if not state.finished:
        return {}
    base = {name: state.base_sha256.get(name, "") for name in fingerprint}
    if "" in base.values():
        raise InputError(
            "the state does not know the weights before the first round of these layers; all "
            "rounds of a state must edit the same layers"
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
