"""Hyper-parameters for a model: a tuned or published preset, or defaults scaled by depth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from collabedit.editors.hyperparameters import Hyperparameters
from collabedit.editors.registry import DEFAULT_EDITOR, resolve_editor

__all__ = [
    "Depth",
    "Preset",
    "default_hyperparameters",
    "preset_hyperparameters",
    "preset_names",
]

#: Where the five edited layers start, as a share of the depth; published and tuned presets
#: start between 0.11 and 0.27.
_FIRST_LAYER = 0.17
_LAYER_COUNT = 5


class Depth(Protocol):
    """What the defaults need to know about a model; its ``ModelStructure`` provides it."""

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""

    @property
    def single_layer(self) -> bool:
        """Whether the model can be edited in one layer only."""


@dataclass(frozen=True)
class Preset:
    """Hyper-parameters and where they come from.

    Attributes:
        hyperparameters: the settings.
        source: the preset and its evidence, or a note that they were scaled by depth and not tuned.
    """

    hyperparameters: Hyperparameters
    source: str


def default_hyperparameters(name: str, structure: Depth, editor: str = DEFAULT_EDITOR) -> Preset:
    """The settings to use for a model when the user gives none.

    A preset is used if the name is the preset's or ends in it, as a path or a Hub id does
    (``openai-community/gpt2-xl``). Other models get five layers that begin at 17 % of the depth. If
    the editor or the model allows only one layer, it is the middle one of these. An editor's own
    settings for the model, or for all models, take precedence; these may be five layers that begin
    elsewhere (UltraEdit: at 73 %).

    Args:
        name: the model's name.
        structure: the model's structure.
        editor: name of the editor.

    Raises:
        UnknownNameError: when there is no such editor.
    """
    chosen = resolve_editor(editor)
    source = f"scaled to {structure.n_layers} layers, not tuned"
    values: dict[str, Any] = {"layers": _scaled_layers(structure.n_layers)}
    by_model = _stored("editor_presets").get(chosen.name, {})
    own = by_model.get("*", {})
    for preset, known in _stored("presets").items():
        if name == preset or name.rstrip("/").endswith(f"/{preset}"):
            own = own | by_model.get(preset, {})
            source = f"preset {preset}, {own.pop('source', known.pop('source'))}"
            values = known
    if "first_layer" in own:
        values["layers"] = _scaled_layers(structure.n_layers, own.pop("first_layer"))
    if chosen.single_layer or structure.single_layer:
        values["layers"] = [values["layers"][(len(values["layers"]) - 1) // 2]]
    # Exact editors would have to satisfy two keys that may be nearly alike.
    values.setdefault("separate_keys", chosen.at_once and chosen.ridge > 0)
    return Preset(Hyperparameters.model_validate({**values, **own}), source)


def preset_hyperparameters(name: str) -> Hyperparameters:
    """The settings of a preset as stored, without any editor's own."""
    values = _stored("presets")[name]
    del values["source"]
    return Hyperparameters.model_validate(values)


def preset_names() -> list[str]:
    """Names of the models with a preset."""
    return list(_stored("presets"))


def _scaled_layers(n_layers: int, first_layer: float = _FIRST_LAYER) -> list[int]:
    count = min(_LAYER_COUNT, n_layers)
    first = min(round(first_layer * n_layers), n_layers - count)
    return list(range(first, first + count))


def _stored(name: str) -> dict[str, dict[str, Any]]:
    """``presets`` by model; ``editor_presets``, the differences, by editor and model (``*``: any).

    In the latter, ``first_layer`` says where the five layers begin, as a share of the depth, and
    ``source`` where an editor's settings come from, if not from where the model's do.
    """
    text = resources.files("collabedit.editors").joinpath(f"{name}.json").read_text("utf-8")
    stored: dict[str, dict[str, Any]] = json.loads(text)
    return stored
