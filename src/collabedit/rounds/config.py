"""The configuration that all parties of a round share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from collabedit.algebra import Prior
from collabedit.covariance import Covariance
from collabedit.editing.contexts import Contexts, sample_contexts, validate_contexts
from collabedit.editing.editors import DEFAULT_EDITOR, Editor, PriorKind, resolve_editor
from collabedit.editing.hyperparameters import Hyperparameters
from collabedit.editing.presets import default_hyperparameters
from collabedit.errors import CovarianceError, InputError, RoundError, UnknownNameError
from collabedit.files import read_json, sha256_of_json, write_json
from collabedit.models.language_model import LanguageModel
from collabedit.rounds.metadata import FileMetadata, parse_metadata
from collabedit.rounds.priors import Priors, priors_at_once

__all__ = ["RoundConfig", "Schedule", "new_round", "parse_schedule"]

_FORMAT = "collabedit.round"


class Schedule(str, Enum):
    """How residuals reach the layers."""

    SEQUENTIAL = "sequential"
    """Layer by layer, the residual measured anew after the lower ones changed; an exchange each."""

    ONE_SHOT = "one-shot"
    """Every layer from the unedited model; one exchange in all."""


def parse_schedule(name: str) -> Schedule:
    """A schedule from its name.

    Raises:
        UnknownNameError: when there is none of that name.
    """
    try:
        return Schedule(name.strip().lower())
    except ValueError:
        raise UnknownNameError("schedule", name, [s.value for s in Schedule]) from None


class RoundConfig(FileMetadata):
    """What the parties must agree on before they edit; kept as ``round.json``.

    Attributes:
        schedule: how residuals reach the layers.
        editor: name of the editor.
        hyperparameters: the editor's settings.
        contexts: template groups, sampled once for all parties.
        seed: that the contexts were sampled with.
        dtype: type that all parties load the model in.
        weights: names of the edited weights, lowest layer first.
        d_in: width of a key.
        d_out: width of a residual.
    """

    format: Literal["collabedit.round"] = "collabedit.round"
    version: Literal[1] = 1
    schedule: Schedule
    editor: str = DEFAULT_EDITOR
    hyperparameters: Hyperparameters
    contexts: Annotated[Contexts, AfterValidator(validate_contexts)]
    seed: int
    dtype: str
    weights: tuple[str, ...]
    d_in: int = Field(gt=0)
    d_out: int = Field(gt=0)

    @field_validator("editor")
    @classmethod
    def _known_editor(cls, name: str) -> str:
        try:
            return resolve_editor(name).name
        except UnknownNameError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _layers_for_the_editor(self) -> RoundConfig:
        try:
            self.rules.check(self.hyperparameters)
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _one_weight_a_layer(self) -> RoundConfig:
        if len(self.weights) != len(self.hyperparameters.layers):
            raise ValueError("weights and hyperparameters.layers differ in number")
        if set(self.weights) != set(self.model_sha256):
            raise ValueError("weights and model_sha256 name different weights")
        return self

    @cached_property
    def sha256(self) -> str:
        """Identifies the round in updates and deltas."""
        return sha256_of_json(self.model_dump(mode="json"))

    @property
    def contexts_sha256(self) -> str:
        """Identifies the contexts."""
        return sha256_of_json(self.contexts)

    @property
    def rules(self) -> Editor:
        """What the editor asks for."""
        return resolve_editor(self.editor)

    @property
    def one_exchange(self) -> bool:
        """Whether one exchange tells all of a party's statistics, and so its own update."""
        return self.rules.at_once and self.schedule is Schedule.ONE_SHOT

    @property
    def schedule_matters(self) -> bool:
        """Whether the schedules differ: where all edits go to several layers together."""
        return self.rules.at_once and len(self.layers) > 1

    @property
    def layers(self) -> tuple[int, ...]:
        """The edited layers, lowest first."""
        return self.hyperparameters.layers

    @property
    def prior_weight(self) -> float:
        """``lambda``."""
        return self.hyperparameters.prior_weight

    def pending_layers(self, finished: int) -> tuple[int, ...]:
        """The layers of the next exchange, once the ``finished`` lowest ones are merged."""
        rest = self.layers[finished:]
        return rest[:1] if self.schedule is Schedule.SEQUENTIAL else rest

    def weight_of(self, layer: int) -> str:
        """Name of an edited layer's weight."""
        return self.weights[self.layers.index(layer)]

    def residual_share(self, layer: int) -> float:
        """A layer's share of the residual; by MEMIT, ``1 / (L - i)`` for the ``i``-th of ``L``."""
        return self.rules.share(self.layers.index(layer), len(self.layers))

    def priors(
        self, covariance: Covariance | None, memory_budget: int | None = None
    ) -> Mapping[str, Prior]:
        """The editor's priors ``A0`` by weight name; none for an editor without a closed form.

        Only the coordinator has to know them: what AlphaEdit projects away is projected there.

        Args:
            covariance: the second moments of the edited weights' inputs.
            memory_budget: bytes. Priors that do not fit are made anew at each use, those of wide
                layers from their factors in the user's cache. All are held by default.

        Raises:
            CovarianceError: when they are missing, of another model, or cannot be used.
        """
        kind, settings = self.rules.prior, self.hyperparameters
        if kind is None:
            return {}
        if covariance is None:
            raise CovarianceError(f"{self.editor} needs a covariance of {self.model}")
        covariance.check_model(self.model_sha256)
        if kind is PriorKind.COVARIANCE:
            make = partial(covariance.prior, lambda_=settings.prior_weight)
        else:
            make = partial(
                covariance.null_space_prior,
                threshold=settings.null_space_threshold,
                lambda_2=settings.null_space_weight,
            )
        priors = Priors(self.weights, make, priors_at_once(self.d_in, memory_budget))
        for name in priors:
            priors[name]  # what cannot be used is told now
        return priors

    def on(self, model: LanguageModel) -> RoundConfig:
        """The same round on the model as it is now, after earlier edits."""
        values = self.model_dump(exclude={"model_sha256"})
        return RoundConfig(**values, model_sha256=model.fingerprint(self.weights))

    def check_model(self, model: LanguageModel) -> None:
        """Check that a model is the round's.

        Raises:
            RoundError: when it is loaded in another type or has other weights.
        """
        dtype = str(model.dtype).removeprefix("torch.")
        if dtype != self.dtype:
            raise RoundError(
                f"the round edits {self.model} in {self.dtype}; load it so, not {dtype}"
            )
        if model.fingerprint(model.weight_names(self.layers)) != self.model_sha256:
            raise RoundError(
                f"{model.name} is not the model of this round ({self.model}): "
                "its weights at the edited layers differ"
            )

    def save(self, path: Path) -> None:
        """Write ``round.json``."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> RoundConfig:
        """Read ``round.json``.

        Raises:
            InputError: when the file cannot be read.
            RoundError: when it is not a round's configuration.
        """
        values = read_json(path, "round file")
        if not isinstance(values, dict):
            raise RoundError(f"{path}: not a {_FORMAT} file")
        return parse_metadata(cls, values, _FORMAT, path, RoundError)


def new_round(
    model: LanguageModel,
    *,
    editor: str = DEFAULT_EDITOR,
    schedule: Schedule = Schedule.SEQUENTIAL,
    hyperparameters: Hyperparameters | None = None,
    contexts: Contexts | None = None,
    seed: int = 0,
) -> RoundConfig:
    """Make a round's configuration.

    Args:
        model: the unedited model.
        editor: name of the editor, in any case of letters.
        schedule: how residuals reach the layers.
        hyperparameters: settings; the model's preset by default.
        contexts: template groups; sampled from the model under ``seed`` by default.
        seed: of that sampling.

    Raises:
        UnknownNameError: when there is no such editor.
        InputError: when it cannot edit with these settings.
        ModelError: when the model lacks a layer, or its layers do not add what the edited weights
            give.
    """
    rules = resolve_editor(editor)
    settings = (
        hyperparameters
        or default_hyperparameters(model.name, model.structure, editor).hyperparameters
    )
    rules.check(settings)
    model.structure.check_layers(settings.layers)
    settings.check_depth(model.structure.n_layers)
    weights = model.weight_names(settings.layers)
    model.check_addition(settings.layers[-1])
    return RoundConfig(
        model=model.name,
        model_sha256=model.fingerprint(weights),
        schedule=schedule,
        editor=rules.name,
        hyperparameters=settings,
        contexts=contexts or sample_contexts(model, seed),
        seed=seed,
        dtype=str(model.dtype).removeprefix("torch."),
        weights=tuple(weights),
        d_in=model.structure.mlp_size,
        d_out=model.structure.hidden_size,
    )
