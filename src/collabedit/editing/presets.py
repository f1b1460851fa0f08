"""Hyper-parameters for a model: a tuned or published preset, or defaults scaled by depth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

from collabedit.editing.hyperparameters import Hyperparameters
from collabedit.models.structure import ModelStructure

__all__ = ["Preset", "default_hyperparameters", "preset_names"]

#: Where the five edited layers begin, as a share of the depth; the published presets and the tuned
#: ones lie between 0.11 and 0.27.
_FIRST_LAYER = 0.17
_LAYER_COUNT = 5


@dataclass(frozen=True)
class Preset:
    """Hyper-parameters and where they come from.

    Attributes:
        hyperparameters: the settings.
        source: ``preset NAME``, or that they were scaled by depth and not tuned.
    """

    hyperparameters: Hyperparameters
    source: str


def default_hyperparameters(name: str, structure: ModelStructure) -> Preset:
    """The settings to use for a model when the user gives none.

    A preset is taken when the name is the preset's, or ends in it as a path or a Hub id does
    (``openai-community/gpt2-xl``). Other models get five layers that begin at 17 % of the depth.
    """
    for preset, values in _presets().items():
        if name == preset or name.rstrip("/").endswith(f"/{preset}"):
            return Preset(Hyperparameters.model_validate(values), f"preset {preset}")
    count = min(_LAYER_COUNT, structure.n_layers)
    first = min(round(_FIRST_LAYER * structure.n_layers), structure.n_layers - count)
    layers = tuple(range(first, first + count))
    return Preset(
        Hyperparameters(layers=layers), f"scaled to {structure.n_layers} layers, not tuned"
    )


def preset_names() -> list[str]:
    """Names of the models with a preset."""
    return list(_presets())


def _presets() -> dict[str, dict[str, object]]:
    text = resources.files("collabedit.editing").joinpath("presets.json").read_text("utf-8")
    presets: dict[str, dict[str, object]] = json.loads(text)
    return presets
