"""The settings of an edit, as the field's papers name and publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from collabedit.errors import InputError, one_line
from collabedit.files import read_json

__all__ = ["Hyperparameters"]

#: Our names by those of the JSON files of ROME, MEMIT, AlphaEdit and their fine-tuning.
_PAPER_NAMES = {
    "layers": "layers",
    "mom2_update_weight": "prior_weight",
    "nullspace_threshold": "null_space_threshold",
    "L2": "null_space_weight",
    "v_num_grad_steps": "target_steps",
    "v_lr": "target_learning_rate",
    "v_weight_decay": "target_weight_decay",
    "kl_factor": "kl_factor",
    "clamp_norm_factor": "clamp_factor",
    "num_steps": "ft_steps",
    "lr": "ft_learning_rate",
    "norm_constraint": "ft_norm_bound",
}


class Hyperparameters(BaseModel):
    """Settings of an edit (Meng et al., 2023, appendix B); an editor reads those it needs.

    Attributes:
        layers: the edited layers, consecutive, lowest first; targets are set at the last one.
        prior_weight: ``lambda`` of the prior ``lambda C``: how much the rest is to be kept.
        null_space_threshold: AlphaEdit changes the directions in which ``C`` has an eigenvalue
            below it.
        null_space_weight: ``lambda_2`` of its prior ``lambda_2 I`` in these directions.
        target_steps: most evaluations of the target's loss; one fewer Adam steps are made.
        target_learning_rate: of Adam.
        target_weight_decay: factor of ``|delta| / |h|^2`` in the loss.
        kl_factor: factor of the divergence on "{subject} is a" in the loss.
        clamp_factor: largest ``|delta|`` as a share of ``|h|``.
        loss_threshold: an edit whose loss falls below it is finished.
        ft_steps: most steps of fine-tuning.
        ft_learning_rate: of its Adam.
        ft_norm_bound: the most that it changes an entry of the weight by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[int, ...] = Field(min_length=1)
    prior_weight: float = Field(default=1500.0, gt=0, allow_inf_nan=False)
    null_space_threshold: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    null_space_weight: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    target_steps: int = Field(default=25, ge=1)
    target_learning_rate: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    target_weight_decay: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    kl_factor: float = Field(default=0.0625, ge=0, allow_inf_nan=False)
    clamp_factor: float = Field(default=0.75, gt=0, allow_inf_nan=False)
    loss_threshold: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    ft_steps: int = Field(default=25, ge=1)
    ft_learning_rate: float = Field(default=5e-4, gt=0, allow_inf_nan=False)
    ft_norm_bound: float = Field(default=5e-4, gt=0, allow_inf_nan=False)

    @field_validator("layers")
    @classmethod
    def _consecutive(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if layers[0] < 0 or list(layers) != list(range(layers[0], layers[-1] + 1)):
            raise ValueError("must be consecutive layers, lowest first, such as [5, 6, 7]")
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

    @classmethod
    def from_file(cls, path: Path) -> Hyperparameters:
        """Read a JSON file of ours, or one that ROME, MEMIT, AlphaEdit or CollabEdit publish.

        Raises:
            InputError: when the file is unreadable, or a setting is missing or out of range.
        """
        values = read_json(path, "hyper-parameters file")
        if not isinstance(values, dict):
            raise InputError(f"{path}: expected a JSON object of hyper-parameters")
        if any(name in values for name, ours in _PAPER_NAMES.items() if name != ours):
            values = cls._from_paper(values, path)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{path}: {one_line(error)}") from None

    @staticmethod
    def _from_paper(values: dict[str, Any], path: Path) -> dict[str, Any]:
        if values.get("fact_token", "subject_last") != "subject_last":
            raise InputError(
                f"{path}: fact_token {values['fact_token']!r} is not supported; "
                "edits are made at the subject's last token (subject_last)"
            )
        return {ours: values[paper] for paper, ours in _PAPER_NAMES.items() if paper in values}
