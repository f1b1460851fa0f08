"""Published hyper-parameter files: each setting is used, without meaning, refused or warned about.

The files are made up in every published shape.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from collabedit.algebra import Factors, solve
from collabedit.editors import Hyperparameters, editors, resolve_editor
from collabedit.errors import InputError

MODULES = {
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
    "lm_head_module": "lm_head",
}
TARGETS = {
    "fact_token": "subject_last",
    "v_num_grad_steps": 11,
    "v_lr": 0.25,
    "v_loss_layer": 7,
    "v_weight_decay": 0.125,
    "clamp_norm_factor": 3,
    "kl_factor": 0.5,
}
STATISTICS = {
    "mom2_adjustment": True,
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 100,
    "mom2_dtype": "float32",
}
ROME = {
    "layers": [2],
    **TARGETS,
    **STATISTICS,
    **MODULES,
    "context_template_length_params": [[5, 10], [10, 10]],
    "bias_update": False,
    "dynamic": False,
    "dynamic_multiplier": 1,
}
MEMIT = {
    "model_name": "some-model",
    "layers": [2, 3],
    "layer_selection": "all",
    "mom2_update_weight": 900,
    **TARGETS,
    **STATISTICS,
    **MODULES,
    "calculate_objective_value": False,
    "update_norm_lambda": 0,
}
PMET = {
    **MEMIT,
    "alg_name": "PMET",
    "rewrite_module_tmps": ["model.layers.{}.mlp.down_proj"],
    "nll_loss_factor": 1,
}
EMMET = {**MEMIT, "emmet_lambda": 0.1}
ENCORE = {
    **EMMET,
    "update_norm_lambda": 20,
    "prob_cutoff": -1,
    "add_prev_edits": True,
    "norm_control": 0,
    "random_vector_preservation": False,
}
ALPHA_EDIT = {**MEMIT, "nullspace_threshold": 0.03, "L2": 7, "P_loc": "P.pt"}
FT = {
    "layers": [1],
    "num_steps": 13,
    "lr": 0.002,
    "weight_decay": 0,
    "kl_factor": 0,
    "norm_constraint": 0.0003,
    **MODULES,
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj.weight",
}
EASYEDIT = """\
alg_name: "ALG"
model_name: "./hugging_cache/some-model"
stats_dir: "./data/stats"
device: 0
layers: [2]
fact_token: "subject_last"
v_num_grad_steps: 11
v_lr: 25e-2
v_loss_layer: 7
v_weight_decay: 1e-3
clamp_norm_factor: 3
kl_factor: 0.5
rewrite_module_tmp: "transformer.h.{}.mlp.c_proj"
model_parallel: false
fp16: false
"""
ULTRAEDIT = """\
alg_name: ULTRAEDIT
model_name: some/model
model_class: AutoModelForCausalLM
tokenizer_class: AutoTokenizer
tokenizer_name: some/model
device: 0
dropout: 0.0
no_grad_layers: null
lr: 1e-6
token: mask
batch_size: 100
batch_size_once: 10
editor_batch_size: 1024
silent: False
half: true
model_parallel: false
results_dir: ./results
inner_params:
- model.layers.3.mlp.down_proj
- model.layers.2.mlp.down_proj
"""
LORA = {"lora_alpha": 32, "rank": 8, "num_steps": 60, "lr": 5e-3, "kl_factor": 0}


def read(folder: Path, values: dict[str, Any] | str) -> Hyperparameters:
    path = folder / ("some.yaml" if isinstance(values, str) else "some.json")
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return Hyperparameters.from_file(path)


def refusal(folder: Path, values: dict[str, Any] | str) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, values)
    message = str(caught.value)
    assert message.startswith(str(folder / "some."))
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("published", "own"),
    [
        (ROME, {"layers": (2,)}),
        (MEMIT, {"layers": (2, 3), "prior_weight": 900}),
        (PMET, {"layers": (2, 3), "prior_weight": 900}),
        (EMMET, {"layers": (2, 3), "prior_weight": 900, "equality_ridge": 0.1}),
        (
            ENCORE,
            {
                "layers": (2, 3),
                "prior_weight": 900,
                "norm_weight": 20,
                "equality_ridge": 0.1,
                "target_stop": "argmax",
            },
        ),
        (
            ALPHA_EDIT,
            {
                "layers": (2, 3),
                "prior_weight": 900,
                "null_space_threshold": 0.03,
                "null_space_weight": 7,
            },
        ),
    ],
    ids=["ROME", "MEMIT", "PMET", "EMMET", "ENCORE", "AlphaEdit"],
)
def test_files_of_each_editor_are_read_without_warnings(
    tmp_path: Path, published: Any, own: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(tmp_path, published) == Hyperparameters(
        **own,
        target_steps=11,
        target_learning_rate=0.25,
        target_weight_decay=0.125,
        clamp_factor=3,
        kl_factor=0.5,
        loss_layer=7,
    )
    assert caplog.messages == []


def test_files_of_fine_tuning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read(tmp_path, FT)
    assert (found.layers, found.ft_steps, found.ft_learning_rate) == ((1,), 13, 0.002)
    assert found.ft_norm_bound == 0.0003
    assert read(tmp_path, {**FT, "norm_constraint": False}).ft_norm_bound is None
    assert read(tmp_path, {**FT, "weight_decay": False}).ft_norm_bound == 0.0003
    assert caplog.messages == []


def test_files_of_ultraedit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its module names contain the layers, and ``lr`` weighs gradients."""
    assert read(tmp_path, ULTRAEDIT) == Hyperparameters(layers=(2, 3), gradient_rate=1e-6)
    assert caplog.messages == []


def test_encore_stops_at_the_first_step_with_likeliest_tokens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(tmp_path, {**ENCORE, "prob_cutoff": 0}).target_stop == "loss"
    assert caplog.messages == []
    assert read(tmp_path, {**ENCORE, "prob_cutoff": -2}).target_stop == "argmax"
    (warning,) = caplog.messages
    assert "prob_cutoff: -2 is not followed" in warning


def test_nas_is_on_or_off_and_measures_its_anchor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(tmp_path, {**MEMIT, "use_nas": True, "nas_restart": 1000}).norm_anchor == 0
    assert read(tmp_path, {**MEMIT, "use_nas": False}).norm_anchor is None
    assert read(tmp_path, MEMIT).norm_anchor is None
    assert caplog.messages == []


@pytest.mark.parametrize("algorithm", ["ROME", "R-ROME", "MEMIT", "AlphaEdit", "EMMET", "FT"])
def test_files_of_easyedit(
    tmp_path: Path, algorithm: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = read(tmp_path, EASYEDIT.replace("ALG", algorithm))
    assert (found.layers, found.target_learning_rate) == ((2,), 0.25)  # 25e-2 is a text in YAML 1.1
    assert (found.target_weight_decay, found.loss_layer) == (0.001, 7)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**ROME, "fact_token": "subject_first"}, "fact_token: 'subject_first' is not supported"),
        ({**MEMIT, "layer_selection": "random"}, "(only 'all' is)"),
        ({**ENCORE, "prob_cutoff": 0.9}, "prob_cutoff: 0.9 is not supported"),
        ({**ENCORE, "random_vector_preservation": True}, "random_vector_preservation: True is not"),
        ({**ROME, "bias_update": True}, "bias_update: True is not supported"),
        ({**ROME, "dynamic": True}, "dynamic: True is not supported"),
        ({**FT, "weight_decay": 0.1}, "weight_decay: 0.1 is not supported"),
        ({**FT, "wd_power_law": [-0.8, 0.1]}, "wd_power_law: [-0.8, 0.1] is not supported"),
        ({**PMET, "nll_loss_factor": 2}, "nll_loss_factor: 2 is not supported"),
        (
            {**FT, "rewrite_module_tmp": "transformer.h.{}.attn.c_attn"},
            "rewrite_module_tmp: 'transformer.h.{}.attn.c_attn' is part of the attention",
        ),
        ({**FT, "rewrite_module_tmp": "transformer.h.{}"}, "is not the MLP's down-projection"),
        ({**FT, "rewrite_module_tmp": "model.layers.{}.mlp.up_proj"}, "is not the MLP's"),
        ({**PMET, "rewrite_module_tmps": ["h.{}.mlp.fc_out", "h.{}.attn.o_proj"]}, "attention"),
        ({**MEMIT, "alg_name": "GRACE"}, "alg_name: collabedit has no editor 'GRACE'"),
        ({"lr_scale": 1.0, "n_toks": 1, "model_name": "x"}, "no layers to edit"),
        ({**FT, "layers": [0, 31]}, "layers: must be consecutive layers"),
        ({**FT, "layers": [0, 10**15]}, "layers: must be consecutive layers"),
        ({**LORA, "layers": []}, "no layers to edit"),
        ({"layers": [18], "multipliers": [3], "device": 0}, "none of its settings is one of an"),
        ({"prior_weight": 3}, "no layers to edit"),
        ("layers: [1]\nlr: 1\nlr: 2", "gives 'lr' twice"),
        (ULTRAEDIT + "- model.layers.3.mlp.up_proj", "'model.layers.3.mlp.up_proj' is not the MLP"),
        (ULTRAEDIT + "- model.layers.5.mlp.down_proj", "layers: must be consecutive layers"),
        (ULTRAEDIT + "- lm_head", "inner_params: 'lm_head' names no single layer"),
        (ULTRAEDIT.replace("token: mask", "token: ans"), "token: 'ans' is not supported"),
        (EASYEDIT.replace("ALG", "LoRA"), "alg_name: collabedit has no editor 'LoRA'"),
        ("layers: [1", "not valid YAML (line 1: "),
        ("layers: &a [*a]", ""),
        ("v_lr: !!python/object:os.system x", "not valid YAML"),
        ("v_lr: !!bool maybe", "not valid YAML (KeyError)"),
        ("v_lr: 2001-99-99", "not valid YAML (ValueError)"),
        ("[" * 5000, "nested too deeply"),
        ("just words", "expected an object"),
        ("", "expected an object"),
        ("#" * (2 << 20), "larger than 1 MiB"),
    ],
)
def test_refuses_settings_that_would_change_the_method(
    tmp_path: Path, values: Any, message: str
) -> None:
    assert message in refusal(tmp_path, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**FT, "objective_optimization": "prompt_last"}, "objective_optimization: 'prompt_last'"),
        ({**MEMIT, "neuron_threshold": 1.0}, "unknown settings, not used: 'neuron_threshold'"),
        ({**FT, "rewrite_module_tmp": "h.{}.mlp.back"}, "is taken for the MLP's down-projection"),
    ],
)
def test_warns_about_settings_that_are_not_followed(
    tmp_path: Path, values: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    read(tmp_path, values)
    (warning,) = caplog.messages
    assert message in warning
    assert warning.startswith(str(tmp_path))


def test_rome_without_the_adjustment_uses_the_key_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ROME's ``compute_u``: ``u = k``, and so ``Delta = r k^T / |k|^2`` whatever ``C`` is."""
    settings = read(tmp_path, {**ROME, "mom2_adjustment": False})
    assert caplog.messages == []
    generator = torch.Generator().manual_seed(0)
    key, residual = (torch.randn(n, 1, dtype=torch.float64, generator=generator) for n in (6, 4))
    root = torch.randn(6, 9, dtype=torch.float64, generator=generator)
    rome = resolve_editor("ROME")
    prior = rome.prior_spec(settings).build(root @ root.T)
    update = solve(Factors(key, residual), prior, ridge=rome.ridge_of(settings))
    expected = residual @ key.T / (key.T @ key)
    assert torch.allclose(update.dense(), expected, rtol=1e-12, atol=1e-12)


def test_other_editors_read_no_adjustment() -> None:
    """MEMIT's code never reads the setting, though its files have it."""
    for editor in editors():
        if editor.name == "ROME" or not editor.has_statistics:
            continue
        on, off = (
            editor.prior_spec(Hyperparameters(layers=(1,), covariance_adjustment=value))
            for value in (True, False)
        )
        assert on == off


def test_a_later_setting_is_written_only_if_it_differs_from_its_default() -> None:
    """So that rounds of earlier versions keep their digest."""
    assert "covariance_adjustment" not in Hyperparameters(layers=(1,)).model_dump()
    off = Hyperparameters(layers=(1,), covariance_adjustment=False)
    assert Hyperparameters.model_validate(off.model_dump()) == off
