"""Published hyper-parameter files, read setting by setting.

ROME, MEMIT, PMET, EMMET, ENCORE, AlphaEdit and fine-tuning share one vocabulary, in the JSON files
of their authors and in EasyEdit's YAML files; UltraEdit's files have another, which is translated.
Each setting of a file is used, has no meaning here, must have the only supported value, or is
warned about; none is dropped silently.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collabedit.errors import InputError, shown

__all__ = ["is_published", "read_published"]

logger = logging.getLogger(__name__)

#: Published names and ours.
_USED = {
    "layers": "layers",
    "mom2_update_weight": "prior_weight",
    "nullspace_threshold": "null_space_threshold",
    "L2": "null_space_weight",
    "mom2_adjustment": "covariance_adjustment",
    "emmet_lambda": "equality_ridge",
    "update_norm_lambda": "norm_weight",
    "v_num_grad_steps": "target_steps",
    "v_lr": "target_learning_rate",
    "v_weight_decay": "target_weight_decay",
    "v_loss_layer": "loss_layer",
    "kl_factor": "kl_factor",
    "clamp_norm_factor": "clamp_factor",
    "num_steps": "ft_steps",
    "lr": "ft_learning_rate",
    "norm_constraint": "ft_norm_bound",
    "batch_size": "ft_batch_size",
    "use_nas": "norm_anchor",
    "gradient_rate": "gradient_rate",
    "prob_cutoff": "target_stop",
}

#: Settings that are determined here by the model, the covariance, the contexts or other options,
#: and those that only matter together with a refused value.
_WITHOUT_MEANING = frozenset(
    {
        *("alg_name", "model_name", "stats_dir", "P_loc", "device", "model_parallel", "fp16"),
        *("layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module"),
        *("mom2_dataset", "mom2_n_samples", "mom2_dtype", "context_template_length_params"),
        *("max_length", "calculate_objective_value", "dynamic_multiplier", "nas_restart"),
        *("class_name", "model_class", "tokenizer_class", "tokenizer_name", "half", "silent"),
        *("results_dir", "batch_size_once", "editor_batch_size", "add_prev_edits"),
    }
)


@dataclass(frozen=True)
class _Only:
    """A setting with only one supported value.

    Attributes:
        value: the supported one.
        instead: what happens regardless of the file.
        warns: whether other values cause a warning instead of an error.
    """

    value: Any
    instead: str
    warns: bool = False


_ONLY = {
    "fact_token": _Only("subject_last", "edits are made at the subject's last token"),
    "layer_selection": _Only("all", "all layers of the file are edited"),
    "weight_decay": _Only(0, "fine-tuning has no weight decay"),
    "wd_power_law": _Only(None, "fine-tuning has no weight decay"),
    "bias_update": _Only(False, "only weights are edited, no biases"),
    "dynamic": _Only(False, "the covariance is that of the unedited model"),
    "enable_prompt_keys": _Only(False, "keys are means over context templates"),
    "enable_random_prefix_keys": _Only(True, "keys are means over context templates"),
    "original_implementation": _Only(False, "keys are means over context templates"),
    "nll_loss_factor": _Only(1, "the likelihood of the new object has the weight 1"),
    "random_vector_preservation": _Only(False, "what is kept is ordinary text"),
    "norm_control": _Only(0, "the norm of an update is not controlled"),
    "dropout": _Only(0, "features are measured without dropout"),
    "no_grad_layers": _Only(None, "gradients pass through all layers"),
    "token": _Only("mask", "features are measured at the tokens of the new object"),
    "objective_optimization": _Only(
        "target_new", "the loss is that of the whole new object", warns=True
    ),
}

#: Editors by their names in files; R-ROME is ROME with the same keys throughout.
_EDITORS = frozenset(
    {
        *("rome", "r-rome", "memit", "pmet", "emmet", "encore", "alphaedit", "ultraedit"),
        *("ft", "ft-l", "locft-bf"),
    }
)
_REMEDY = "give a file of ROME, MEMIT, PMET, EMMET, ENCORE, AlphaEdit, UltraEdit or FT"

_MODULES = ("rewrite_module_tmp", "rewrite_module_tmps", "inner_params")
_DOWN_PROJECTIONS = frozenset({"c_proj", "down_proj", "fc_out", "dense_4h_to_h", "fc2", "w2", "wo"})
_OTHER_PROJECTIONS = frozenset({"c_fc", "gate_proj", "up_proj", "fc_in", "dense_h_to_4h", "fc1"})
_KNOWN = frozenset({*_USED, *_WITHOUT_MEANING, *_ONLY, *_MODULES})
_OUR_NAMES = frozenset(_USED.values())


def is_published(values: Mapping[str, Any]) -> bool:
    """Whether settings have a published name that is not also ours."""
    return any(name in _KNOWN - _OUR_NAMES for name in values)


def read_published(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Our settings for those of a published file; unsupported ones cause a warning or an error.

    Args:
        values: the file's settings.
        source: name of the file in messages.

    Raises:
        InputError: when a setting has a value that changes the method and is not supported.
    """
    _check_editor(values, source)
    if _editor_of(values) == "ultraedit":
        values = _from_ultraedit(values, source)
    if not values.get("layers"):
        raise InputError(f"{source}: no layers to edit; {_REMEDY}")
    limited = {name: only for name, only in _ONLY.items() if name in values}
    ignored = {name: o for name, o in limited.items() if not _equal(values[name], o.value)}
    for name, only in ignored.items():
        if not only.warns:
            supported = "" if only.value is None else f" (only {shown(only.value)} is)"
            raise InputError(
                f"{source}: {name}: {shown(values[name])} is not supported{supported}; "
                f"{only.instead}: change or remove the setting"
            )
    for name in _MODULES:
        for module in _listed(values.get(name)):
            _check_module(module, f"{source}: {name}: {shown(module)}")
    for name, only in ignored.items():
        value = shown(values[name])
        logger.warning("%s: %s: %s is not followed; %s", source, name, value, only.instead)
    unknown = [shown(name) for name in values if name not in _KNOWN]
    if unknown:
        logger.warning("%s: unknown settings, not used: %s", source, ", ".join(unknown))
    settings = {ours: values[name] for name, ours in _USED.items() if name in values}
    if settings.keys() == {"layers"} and "alg_name" not in values:
        raise InputError(f"{source}: none of its settings is one of an editor's; {_REMEDY}")
    _settle_switches(settings, source)
    return settings


def _settle_switches(settings: dict[str, Any], source: str) -> None:
    """Translate settings whose published values are switches into the values used here."""
    if settings.get("ft_norm_bound") is False:
        settings["ft_norm_bound"] = None
    if "norm_anchor" in settings:  # in published files NAS is on or off, and measures its anchor
        settings["norm_anchor"] = 0.0 if settings["norm_anchor"] else None
    if "target_stop" in settings:
        settings["target_stop"] = _stop_of(settings["target_stop"], source)


def _stop_of(cutoff: Any, source: str) -> str:
    """ENCORE's ``prob_cutoff``: ``-n`` stops after ``n`` steps with all tokens likeliest, 0 never.

    Raises:
        InputError: when it is a probability, which its code compares with a mean.
    """
    if _equal(cutoff, 0):
        return "loss"
    setting = f"{source}: prob_cutoff: {shown(cutoff)}"
    if isinstance(cutoff, bool) or not isinstance(cutoff, int | float) or not cutoff < 0:
        raise InputError(
            f"{setting} is not supported (only 0 and negative numbers are); a search for a target "
            "ends by its loss or its likeliest tokens: change or remove the setting"
        )
    if cutoff != -1:
        logger.warning("%s is not followed; the first step with likeliest tokens ends it", setting)
    return "argmax"


def _editor_of(values: Mapping[str, Any]) -> str:
    return str(values.get("alg_name", "")).lower()


def _check_editor(values: Mapping[str, Any], source: str) -> None:
    name = values.get("alg_name")
    if name is not None and _editor_of(values) not in _EDITORS:
        raise InputError(f"{source}: alg_name: collabedit has no editor {shown(name)}; {_REMEDY}")


def _from_ultraedit(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """UltraEdit's settings in the others' vocabulary; its ``lr`` is the rate of the gradients.

    Its ``batch_size`` is the number of edits per step, which the round decides here.
    """
    settings = {name: value for name, value in values.items() if name not in ("lr", "batch_size")}
    if "lr" in values:
        settings["gradient_rate"] = values["lr"]
    layers = set()
    for module in _listed(values.get("inner_params")):
        numbers = re.findall(r"\.(\d{1,6})\.", str(module))
        if len(numbers) != 1:
            raise InputError(f"{source}: inner_params: {shown(module)} names no single layer")
        layers.add(int(numbers[0]))
    if "layers" not in settings:
        settings["layers"] = sorted(layers)
    return settings


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_module(module: Any, setting: str) -> None:
    """Check that a module-name template names the MLP's down-projection, the edited module."""
    *parents, last = str(module).removesuffix(".weight").split(".")
    remedy = "only the MLP's down-projection is edited; give a file that names it"
    if any(re.search("attn|attention", part, re.IGNORECASE) for part in (*parents, last)):
        raise InputError(f"{setting} is part of the attention; {remedy}")
    if "{}" in last or last in ("mlp", *_OTHER_PROJECTIONS):
        raise InputError(f"{setting} is not the MLP's down-projection; {remedy}")
    if last not in _DOWN_PROJECTIONS:
        logger.warning("%s is taken for the MLP's down-projection", setting)


def _equal(value: Any, wanted: Any) -> bool:
    """Equality that treats ``false`` and "0" as 0, since files mix them."""
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        return bool(value == wanted)
    try:
        return float(value) == wanted
    except (TypeError, ValueError, OverflowError):
        return False
