"""The settings of an edit, as the field's papers name and publish them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from collabedit.editors.published import is_published, read_published
from collabedit.errors import InputError, one_line, shown
from collabedit.files import RepeatedNames, decode_json, read_text

__all__ = ["Hyperparameters"]

#: Settings that version 0.1 did not have.
_LATER = (
    "loss_layer",
    "equality_ridge",
    "covariance_adjustment",
    "norm_weight",
    "target_stop",
    "target_search",
    "target_momentum",
    "norm_anchor",
    "gradient_rate",
    "separate_keys",
    "ft_batch_size",
    "ft_end_token",
)

#: Largest hyper-parameter file; published ones have less than 2 KiB.
_LARGEST_FILE = 1 << 20


class Hyperparameters(BaseModel):
    """Settings of an edit (Meng et al., 2023, appendix B); an editor reads those it needs.

    Attributes:
        layers: the edited layers, consecutive, lowest first; targets are set at the last one.
        prior_weight: ``lambda`` of the prior ``lambda C``: how strongly everything else is
            preserved.
        covariance_adjustment: whether ROME weighs directions by ``C``; otherwise by ``I``, as
            EasyEdit's files have it (``mom2_adjustment: false``). Only ROME's code reads it.
        null_space_threshold: AlphaEdit changes the directions in which ``C`` has an eigenvalue
            below it.
        null_space_weight: ``lambda_2`` of its prior ``lambda_2 I`` in these directions.
        target_steps: most evaluations of the target's loss; there is one step fewer.
        target_search: ``adam``, as in the papers' code, or ``lbfgs``, which reaches an equally low
            loss in about a third of the evaluations.
        target_learning_rate: learning rate of Adam.
        target_momentum: how much of the gradients' mean Adam keeps in a step, its ``beta_1``.
        target_weight_decay: factor of ``|delta| / |h|^2`` in the loss.
        kl_factor: factor of the divergence on "{subject} is a" in the loss.
        clamp_factor: largest ``|delta|`` as a share of ``|h|``.
        loss_threshold: an edit whose loss falls below it is finished.
        target_stop: ``loss`` stops only then; with ``argmax``, an edit is also finished once every
            token of its answers is the likeliest in all contexts (ENCORE, Gupta et al., 2025).
        loss_layer: the layer from whose output the loss is computed, as published files name it;
            only the model's last layer, the default, is supported.
        equality_ridge: ``e`` of editors that satisfy every edit exactly (EMMET); above zero, edits
            give way where keys are nearly equal. The default is the editor's own, 0.
        norm_weight: ``lambda_n`` of ENCORE's prior ``lambda C + lambda_n I`` (Gupta et al., 2025):
            how much the change's own norm counts.
        norm_anchor: the norm that NAS (Liu et al., 2026) gives every value that the search for
            targets finds; with 0 it is measured on the unedited model when the round is opened, and
            recorded here. By default, values keep their own norms.
        separate_keys: whether an edit has one key for plain texts and one for conversations, each
            with what it lacks there, instead of their mean; editors that edit all at once read it.
        gradient_rate: how far UltraEdit follows the normalised gradients.
        ft_steps: most passes of fine-tuning over the edits.
        ft_learning_rate: learning rate of its Adam.
        ft_norm_bound: the most by which it changes an entry of the weight; ``None`` for no bound.
        ft_batch_size: edits in one step of fine-tuning; ``None`` for all.
        ft_end_token: whether it teaches the token that ends a text, after the new object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[int, ...] = Field(min_length=1)
    prior_weight: float = Field(default=1500.0, gt=0, allow_inf_nan=False)
    covariance_adjustment: bool = True
    null_space_threshold: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    null_space_weight: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    target_steps: int = Field(default=25, ge=1)
    target_learning_rate: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    target_momentum: float = Field(default=0.9, ge=0, lt=1, allow_inf_nan=False)
    target_weight_decay: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    kl_factor: float = Field(default=0.0625, ge=0, allow_inf_nan=False)
    clamp_factor: float = Field(default=0.75, gt=0, allow_inf_nan=False)
    loss_threshold: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    loss_layer: int | None = Field(default=None, ge=0)
    equality_ridge: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    target_stop: Literal["loss", "argmax"] = "loss"
    target_search: Literal["adam", "lbfgs"] = "adam"
    norm_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    norm_anchor: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    separate_keys: bool = False
    gradient_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    ft_steps: int = Field(default=25, ge=1)
    ft_learning_rate: float = Field(default=5e-4, gt=0, allow_inf_nan=False)
    ft_norm_bound: float | None = Field(default=5e-4, gt=0, allow_inf_nan=False)
    ft_batch_size: int | None = Field(default=None, ge=1)
    ft_end_token: bool = False

    @field_validator("layers")
    @classmethod
    def _consecutive(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        # Compared by ends and steps: a range of 10^12 layers would fill the memory.
        steps = all(after - before == 1 for before, after in itertools.pairwise(layers))
        if layers[0] < 0 or not steps:
            raise ValueError(
                "must be consecutive layers, lowest first, such as [5, 6, 7]: each takes what the "
                "ones below left of an edit"
            )
        return layers

    def with_changes(self, **changes: Any) -> Hyperparameters:
        """A copy with the given settings replaced; ``None`` keeps a setting.

        Raises:
            InputError: when a value is out of range.
        """
        values = {key: value for key, value in changes.items() if value is not None}
        try:
            return Hyperparameters.model_validate({**self.model_dump(), **values})
        except ValidationError as error:
            raise InputError(f"hyper-parameters: {one_line(error)}") from None

    @model_serializer(mode="wrap")
    def _without_defaults_of_later_versions(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Leave out settings that older files lack, so that a round keeps its digest."""
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        unset = {key for key in _LATER if values.get(key) == fields[key].default}
        return {key: value for key, value in values.items() if key not in unset}

    def check_depth(self, n_layers: int) -> None:
        """Check that the settings fit a model with this many layers.

        Raises:
            InputError: when the loss layer is not the last one.
        """
        if self.loss_layer not in (None, n_layers - 1):
            raise InputError(
                f"hyper-parameters: loss_layer (v_loss_layer) {self.loss_layer} is not the last "
                f"layer, {n_layers - 1}; the loss is always the last layer's: change or remove it"
            )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Hyperparameters:
        """Read a JSON or YAML file in our format, or a published one.

        It reads the files of ROME, MEMIT, PMET, EMMET, ENCORE, AlphaEdit, their fine-tuning and
        CollabEdit, and EasyEdit's files for these editors and for UltraEdit.

        Raises:
            InputError: when the file is unreadable, or a setting is missing, out of range or not
                supported.
        """
        values = _read(path)
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected an object of hyper-parameters")
        if isinstance(values, RepeatedNames):
            raise InputError(f"{path}: gives {shown(values.repeated)} twice; keep one")
        if is_published(values):
            values = read_published(values, str(path))
        if "layers" not in values:
            raise InputError(f'{path}: no layers to edit; give them, such as "layers": [5, 6, 7]')
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{path}: {one_line(error)}") from None


def _read(path: str | os.PathLike[str]) -> Any:
    text = read_text(path, "hyper-parameters file", limit=_LARGEST_FILE)
    if Path(path).suffix.lower() not in (".yaml", ".yml"):
        return decode_json(text, str(path))
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Rejects a mapping's repeated names, of which YAML would take the last value."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
            values = super().construct_mapping(node, deep)
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            repeated = next((name for name in names if names.count(name) > 1), None)
            if repeated is not None:
                raise InputError(f"{path}: gives {shown(repeated)} twice; keep one")
            return values

    try:
        return yaml.load(text, Loader)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}: not valid YAML (line {line}: {error.problem})") from None
    except RecursionError:
        raise InputError(f"{path}: its YAML is nested too deeply; flatten it") from None
    except Exception as error:  # PyYAML raises errors of all kinds for ill-formed scalars
        raise InputError(f"{path}: not valid YAML ({type(error).__name__})") from None
