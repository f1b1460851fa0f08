"""The registry of editors, and the settings that each one gets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from collabedit.editors import (
    CovariancePrior,
    Hyperparameters,
    IdentityPrior,
    NullSpacePrior,
    Procedure,
    default_hyperparameters,
    editors,
    resolve_editor,
)
from collabedit.errors import InputError, UnknownNameError
from collabedit.models import LanguageModel


def test_the_registry_holds_what_the_documentation_lists() -> None:
    settings = Hyperparameters(
        layers=(1,), prior_weight=7.0, null_space_threshold=0.5, null_space_weight=3.0
    )
    rows = {e.name: (e.procedure, e.ridge, e.single_layer, e.beta) for e in editors()}
    assert rows == {
        "MEMIT": (Procedure.TOGETHER, 1.0, False, 10.0),
        "PMET": (Procedure.TOGETHER, 1.0, False, 10.0),
        "EMMET": (Procedure.TOGETHER, 0.0, False, 10.0),
        "ROME": (Procedure.ONE_BY_ONE, 0.0, True, 10.0),
        "AlphaEdit": (Procedure.TOGETHER, 1.0, False, 1.0),
        "UltraEdit": (Procedure.GRADIENTS, 1.0, False, 0.0),
        "FT-L": (Procedure.FINE_TUNING, 1.0, True, 10.0),
        "LocFT-BF": (Procedure.FINE_TUNING, 1.0, True, 10.0),
    }
    specs = {e.name: e.prior_spec(settings) for e in editors() if e.has_statistics}
    assert specs.pop("AlphaEdit") == NullSpacePrior(0.5, 3.0)
    assert specs.pop("UltraEdit") == IdentityPrior()
    assert set(specs.values()) == {CovariancePrior(7.0)}
    page = Path(__file__).parents[2] / "docs" / "reference" / "editors.md"
    assert all(f"| {name} |" in page.read_text("utf-8") for name in rows)


@pytest.mark.parametrize("spelling", ["alphaedit", "ALPHAEDIT", " AlphaEdit "])
def test_names_are_accepted_in_any_case(spelling: str) -> None:
    assert resolve_editor(spelling).name == "AlphaEdit"


def test_unknown_names_are_refused_with_the_list() -> None:
    names = ", ".join(editor.name for editor in editors())
    with pytest.raises(UnknownNameError, match=f"choose one of: {names}$"):
        resolve_editor("MEND")


@pytest.mark.parametrize("count", [1, 5])
def test_shares_of_the_residual(count: int) -> None:
    for index in range(count):
        assert resolve_editor("MEMIT").share(index, count) == 1 / (count - index)
        assert resolve_editor("PMET").share(index, count) == 1 / math.sqrt(count - index)


@pytest.mark.parametrize("name", ["ROME", "FT-L"])
def test_editors_of_one_layer_refuse_several(name: str) -> None:
    resolve_editor(name).check(Hyperparameters(layers=(3,)))
    with pytest.raises(InputError, match=rf"{name} edits a single layer.*\[3, 4\]"):
        resolve_editor(name).check(Hyperparameters(layers=(3, 4)))


@pytest.mark.parametrize(
    ("model", "editor", "layers", "clamp"),
    [
        ("smollm2-135m", "MEMIT", (5, 6, 7, 8, 9), 0.75),
        ("smollm2-135m", "AlphaEdit", (5, 6, 7, 8, 9), 0.75),
        ("smollm2-135m", "rome", (5,), 0.75),
        ("smollm2-135m", "FT-L", (0,), 0.75),
        ("openai-community/gpt2-xl", "ROME", (17,), 4.0),
        ("EleutherAI/gpt-j-6B", "ROME", (5,), 4.0),
        ("EleutherAI/gpt-j-6B", "FT-L", (0,), 0.75),
        ("other", "EMMET", (0, 1, 2, 3), 0.75),
        ("other", "ROME", (1,), 0.75),
        ("other", "FT-L", (0,), 0.75),
    ],
)
def test_each_editor_has_its_settings(
    tiny_llama: LanguageModel, model: str, editor: str, layers: tuple[int, ...], clamp: float
) -> None:
    preset = default_hyperparameters(model, tiny_llama.structure, editor)
    assert preset.hyperparameters.layers == layers
    assert preset.hyperparameters.clamp_factor == clamp


def read(tmp_path: Path, values: dict[str, object]) -> Hyperparameters:
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(values))
    return Hyperparameters.from_file(path)


def test_the_files_of_alpha_edit_are_read(tmp_path: Path) -> None:
    published = {
        "layers": [3, 4, 5, 6, 7, 8],
        "clamp_norm_factor": 0.75,
        "mom2_update_weight": 15000,
        "nullspace_threshold": 2e-2,
        "L2": 10,
    }
    found = read(tmp_path, published)
    assert (found.null_space_threshold, found.null_space_weight) == (0.02, 10.0)
    assert (found.layers[0], found.prior_weight) == (3, 15000)


def test_the_files_of_constrained_fine_tuning_are_read(tmp_path: Path) -> None:
    published = {
        "layers": [0],
        "num_steps": 20,
        "lr": 3e-4,
        "weight_decay": 0,
        "kl_factor": 0,
        "norm_constraint": 5e-5,
        "rewrite_module_tmp": "transformer.h.{}.mlp.fc_out",
    }
    found = read(tmp_path, published)
    assert (found.ft_steps, found.ft_learning_rate, found.ft_norm_bound) == (20, 3e-4, 5e-5)
    unbound = read(tmp_path, {**published, "norm_constraint": False})
    assert unbound.ft_norm_bound is None


def test_the_ridge_softens_only_equalities_of_edits_made_together() -> None:
    soft = Hyperparameters(layers=(1,), equality_ridge=0.1)
    ridges = {editor.name: editor.ridge_of(soft) for editor in editors()}
    assert ridges == {
        "MEMIT": 1.0,
        "PMET": 1.0,
        "EMMET": 0.1,
        "ROME": 0.0,
        "AlphaEdit": 1.0,
        "UltraEdit": 1.0,
        "FT-L": 1.0,
        "LocFT-BF": 1.0,
    }
    hard = Hyperparameters(layers=(1,))
    assert all(editor.ridge_of(hard) == editor.ridge for editor in editors())
