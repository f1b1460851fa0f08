from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from collabedit.editors import (
    Hyperparameters,
    default_hyperparameters,
    editors,
    preset_names,
    resolve_editor,
)
from collabedit.errors import InputError
from collabedit.models import LanguageModel
from tests.conftest import make_model


def test_published_presets(tiny_gpt2: LanguageModel) -> None:
    preset = default_hyperparameters("openai-community/gpt2-xl", tiny_gpt2.structure)
    settings = preset.hyperparameters
    assert preset.source == "preset gpt2-xl, published with MEMIT"
    assert (settings.layers, settings.prior_weight) == ((13, 14, 15, 16, 17), 20000)
    assert (settings.target_steps, settings.clamp_factor, settings.kl_factor) == (20, 0.75, 0.0625)
    settings = default_hyperparameters("EleutherAI/gpt-j-6B", tiny_gpt2.structure).hyperparameters
    assert (settings.layers, settings.prior_weight) == ((3, 4, 5, 6, 7, 8), 15000)
    assert (settings.target_steps, settings.target_search) == (25, "adam")


def test_other_models_get_layers_by_depth(tiny_gpt2: LanguageModel) -> None:
    deep = replace(tiny_gpt2.structure, n_layers=48)
    preset = default_hyperparameters("my-gpt2-xl-copy", deep)
    assert preset.hyperparameters.layers == (8, 9, 10, 11, 12)
    assert preset.hyperparameters.target_search == "adam"
    assert preset.source == "scaled to 48 layers, not tuned"


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("editor", [editor.name for editor in editors()])
def test_every_preset_is_valid_and_states_its_evidence(
    name: str, editor: str, tiny_gpt2: LanguageModel
) -> None:
    preset = default_hyperparameters(name, tiny_gpt2.structure, editor)
    assert preset.source.startswith(f"preset {name}, ")
    resolve_editor(editor).check(preset.hyperparameters)


@pytest.mark.parametrize("family", ["gemma3", "olmo2"])
def test_models_with_a_norm_behind_the_mlp_get_one_layer(family: str) -> None:
    structure = replace(make_model(family).structure, n_layers=18)
    assert default_hyperparameters("some-model", structure).hyperparameters.layers == (5,)


def test_the_papers_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "gpt2-xl.json"
    values = {
        "layers": [13, 14],
        "clamp_norm_factor": 0.7,
        "fact_token": "subject_last",
        "v_num_grad_steps": 20,
        "v_lr": 0.4,
        "v_weight_decay": 0.3,
        "kl_factor": 0.1,
        "mom2_update_weight": 20000,
        "mom2_dataset": "wikipedia",
    }
    path.write_text(json.dumps(values))
    assert Hyperparameters.from_file(path) == Hyperparameters(
        layers=(13, 14),
        clamp_factor=0.7,
        target_steps=20,
        target_learning_rate=0.4,
        target_weight_decay=0.3,
        kl_factor=0.1,
        prior_weight=20000,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": [1, 3]}, "layers: must be consecutive"),
        ({"layers": [1], "prior_weight": 0}, "prior_weight"),
        ({"layers": [1], "steps": 3}, "steps"),
        ({"layers": [1], "v_lr": 0.5, "fact_token": "subject_first"}, "subject_last"),
        ([1], "expected an object"),
    ],
)
def test_bad_settings_name_the_field(tmp_path: Path, values: object, message: str) -> None:
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=message) as caught:
        Hyperparameters.from_file(path)
    assert str(path) in str(caught.value)


@dataclass(frozen=True)
class Depth:
    n_layers: int = 30
    single_layer: bool = False


@pytest.mark.parametrize(
    ("name", "layers"), [("smollm2-135m", (22, 23, 24, 25, 26)), ("other", (22, 23, 24, 25, 26))]
)
def test_an_editor_may_begin_at_other_layers(name: str, layers: tuple[int, ...]) -> None:
    assert default_hyperparameters(name, Depth(), "UltraEdit").hyperparameters.layers == layers
    single = default_hyperparameters(name, Depth(single_layer=True), "UltraEdit")
    assert single.hyperparameters.layers == layers[2:3]


def test_a_models_own_settings_add_to_those_for_all_models() -> None:
    found = default_hyperparameters("smollm2-135m", Depth(), "LocFT-BF").hyperparameters
    other = default_hyperparameters("other", Depth(), "LocFT-BF").hyperparameters
    assert found.layers != other.layers
    assert found.ft_batch_size != other.ft_batch_size
    assert found.ft_end_token
    assert found.ft_norm_bound is None


def test_an_editors_own_settings_state_their_own_evidence() -> None:
    found = default_hyperparameters("smollm2-135m", Depth(), "LocFT-BF")
    others = default_hyperparameters("smollm2-135m", Depth(), "UltraEdit")
    assert found.source == "preset smollm2-135m, tuned on 40 records of CounterFact"
    assert others.source == default_hyperparameters("smollm2-135m", Depth()).source
