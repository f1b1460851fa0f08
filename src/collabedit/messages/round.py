"""The configuration that all parties of a round share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, PrivateAttr, field_validator, model_validator
from typing_extensions import Self

from collabedit.algebra.sketch import cheaper_dense
from collabedit.editors import (
    DEFAULT_EDITOR,
    Contexts,
    Editor,
    Hyperparameters,
    Schedule,
    key_weights,
    resolve_editor,
    validate_contexts,
)
from collabedit.errors import InputError, RoundError, UnknownNameError
from collabedit.files import sha256_of_json
from collabedit.messages.codec import JsonMessage
from collabedit.messages.limits import Bounds, Gate
from collabedit.messages.metadata import ModelHeader
from collabedit.messages.secure import SecureAggregation

__all__ = ["RoundConfig"]


#: Fields that count towards the hash only if set, so that rounds from before them keep theirs.
_OPTIONAL = ("secure_aggregation", "bounds", "gate", "experts")


class RoundConfig(JsonMessage, ModelHeader):
    """What the parties must agree on before they edit; stored as ``round.json``.

    Attributes:
        schedule: how residuals reach the layers.
        editor: name of the editor.
        hyperparameters: the editor's settings.
        contexts: template groups, sampled once for all parties.
        seed: used for sampling the contexts.
        dtype: type in which all parties load the model.
        weight_names: names of the edited weights, lowest layer first.
        d_in: width of a key.
        d_out: width of a residual.
        experts: number of experts whose keys are stacked into one key; ``None`` for models with
            one MLP for all tokens.
        state_sha256: the state that earlier rounds left; empty in the first round.
        base_sha256: SHA-256 by weight name of the weights before the first round, which the
            covariance was collected on; empty in the first round.
        secure_aggregation: how the coordinator learns only sums; ``None`` if it sees each party's
            contribution.
        bounds: upper bounds on a contribution; ``None`` for no bounds.
        gate: what the parties' trials of the merged model must show; ``None`` if the round has no
            gate, so that any vote goes by the defaults (:attr:`vote_by`).
    """

    earlier: ClassVar[Mapping[tuple[str, int], Mapping[str, str]]] = {
        ("collabedit.round", 1): {"weights": "weight_names"}
    }
    what: ClassVar[str] = "round file"
    error: ClassVar[type[RoundError]] = RoundError

    format: Literal["collabedit.round"] = "collabedit.round"
    version: Literal[2] = 2
    schedule: Schedule
    editor: str = DEFAULT_EDITOR
    hyperparameters: Hyperparameters
    contexts: Annotated[Contexts, AfterValidator(validate_contexts)]
    seed: int
    dtype: str
    weight_names: tuple[str, ...]
    d_in: int = Field(gt=0)
    d_out: int = Field(gt=0)
    state_sha256: str = ""
    base_sha256: dict[str, str] = Field(default_factory=dict)
    secure_aggregation: SecureAggregation | None = None
    bounds: Bounds | None = None
    gate: Gate | None = None
    experts: int | None = Field(default=None, gt=0)

    _sha256: str = PrivateAttr(default="")

    @field_validator("editor")
    @classmethod
    def _known_editor(cls, name: str) -> str:
        try:
            return resolve_editor(name).name
        except UnknownNameError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _layers_for_the_editor(self) -> Self:
        try:
            self.rules.check(self.hyperparameters)
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _one_weight_a_layer(self) -> Self:
        if len(self.weight_names) != len(self.hyperparameters.layers):
            raise ValueError("weight_names and hyperparameters.layers differ in number")
        if set(self.weight_names) != set(self.model_sha256):
            raise ValueError("weight_names and model_sha256 name different weights")
        if self.base_sha256 and set(self.base_sha256) != set(self.weight_names):
            raise ValueError("weight_names and base_sha256 name different weights")
        return self

    @model_validator(mode="after")
    def _sums_where_there_are_any(self) -> Self:
        """A coordinator must not get what secure aggregation hides by asking something else."""
        if self.secure_aggregation is not None and not self.rules.at_once:
            raise ValueError(
                f"{self.rules.name} does not edit by sums of statistics, so secure_aggregation "
                "has nothing to sum"
            )
        return self

    @model_validator(mode="after")
    def _bounds_of_what_is_seen(self) -> Self:
        if self.bounds is not None and self.secure_aggregation is not None:
            raise ValueError(
                "bounds are checked on each party's contribution, which secure_aggregation hides; "
                "the gate works with it"
            )
        return self

    @model_validator(mode="after")
    def _experts_for_the_editor(self) -> Self:
        if self.experts is None:
            return self
        if self.d_in % self.experts:
            raise ValueError("d_in is not a multiple of experts")
        if self.rules.normalises:
            raise ValueError(
                f"{self.editor} normalises the features of all tokens alike, but an expert has "
                "none for tokens that it does not see; use MEMIT or AlphaEdit"
            )
        return self

    @classmethod
    def _parse(cls, values: Any, source: str) -> Self:
        config = super()._parse(values, source)
        if values["version"] == 1:  # contributions of version 1 name the round by this hash
            config._sha256 = sha256_of_json({"editor": DEFAULT_EDITOR, **values})
        return config

    @property
    def sha256(self) -> str:
        """Identifies the round in contributions and deltas."""
        absent = {name for name in _OPTIONAL if getattr(self, name) is None}
        return self._sha256 or sha256_of_json(self.model_dump(mode="json", exclude=absent))

    @property
    def contexts_sha256(self) -> str:
        """Identifies the contexts."""
        return sha256_of_json(self.contexts)

    @property
    def covariance_sha256(self) -> Mapping[str, str]:
        """SHA-256 by weight name of the weights that the covariance must belong to."""
        return self.base_sha256 or self.model_sha256

    @property
    def rules(self) -> Editor:
        """The editor."""
        return resolve_editor(self.editor)

    @property
    def vote_by(self) -> Gate:
        """The gate, or its defaults if the round specifies none."""
        return self.gate or Gate()

    @property
    def one_exchange(self) -> bool:
        """Whether one exchange carries all of a party's statistics, and thus its own update."""
        together = self.rules.at_once and self.schedule is Schedule.ONE_SHOT
        return together or self.rules.normalises

    @property
    def schedule_matters(self) -> bool:
        """Whether the schedules differ: several layers, and all edits made together."""
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
        return rest if self.one_exchange or self.schedule is Schedule.ONE_SHOT else rest[:1]

    @property
    def separate_keys(self) -> bool:
        """Whether plain texts and conversations have a key each, should there be both."""
        return self.hyperparameters.separate_keys and self.rules.at_once

    @property
    def keys_per_edit(self) -> int:
        """How many keys an edit has: two where plain texts and conversations have one each."""
        return len(key_weights(self.contexts, separate=self.separate_keys))

    @property
    def summed_directions(self) -> int:
        """Maximum rank of the sum of all contributions under secure aggregation; 0 without it."""
        secure = self.secure_aggregation
        return 0 if secure is None else secure.max_edits * self.keys_per_edit

    @property
    def sketched(self) -> bool:
        """Whether sums under secure aggregation have the sketched form."""
        secure = self.secure_aggregation
        if secure is None:
            return False
        if secure.form == "auto":
            return not cheaper_dense(self.d_in, self.d_out, self.summed_directions)
        return secure.form == "sketched"

    def most_directions(self, edits: int) -> int:
        """Maximum rank of a contribution: one per key, or one per token of an answer."""
        return self.d_in if self.rules.normalises else min(edits * self.keys_per_edit, self.d_in)

    def weight_of(self, layer: int) -> str:
        """Name of an edited layer's weight."""
        return self.weight_names[self.layers.index(layer)]

    def residual_share(self, layer: int) -> float:
        """A layer's share of the residual; by MEMIT, ``1 / (L - i)`` for the ``i``-th of ``L``."""
        return self.rules.share(self.layers.index(layer), len(self.layers))
