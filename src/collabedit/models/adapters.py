"""LoRA adapters stored beside a model's weights, merged into them on loading.

Without the peft package, ``transformers`` ignores such an adapter; with it, the adapter's matrices
stay separate. Neither gives a model that can be edited and saved.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from collabedit.errors import ModelError
from collabedit.models.checkpoint import read_json_object
from collabedit.progress import say

__all__ = ["has_adapter", "merge_adapter_", "without_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
#: Settings under which an adapter is more than ``W + scale * B A``.
_BEYOND = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "megatron_config",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "use_qalora",
    "alora_invocation_tokens",
)


def has_adapter(folder: Path) -> bool:
    """Whether a model directory contains an adapter."""
    return (folder / _CONFIG).is_file()


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """A temporary directory that links to all of a model's files except the adapter's."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                try:
                    (Path(scratch) / path.name).symlink_to(path.resolve())
                except OSError:  # a system without symbolic links
                    shutil.copy(path, scratch)
        yield Path(scratch)


@torch.no_grad()
def merge_adapter_(name: str, hf: Any, folder: Path) -> None:
    """Add ``scale * B A`` to every weight that a directory's adapter names, and say so.

    Products and sums are computed in float64 and rounded once.

    Raises:
        ModelError: when the adapter is not plain LoRA in safetensors, or belongs to another model.
    """
    config = read_json_object(folder / _CONFIG)
    scale = _scale(folder, config)
    pairs = _pairs(folder)
    for path, (a, b) in pairs.items():
        try:
            module = hf.get_submodule(path)
            weight = module.weight.data
        except AttributeError:
            raise ModelError(f"{folder / _WEIGHTS}: the model has no module {path}") from None
        change = scale * (b.double() @ a.double())
        stored = change.T if config.get("fan_in_fan_out") else change
        if stored.shape != weight.shape:
            raise ModelError(
                f"{folder / _WEIGHTS}: {path} is {tuple(weight.shape)} in the model, but "
                f"{tuple(stored.shape)} in the adapter; it was made for another model"
            )
        weight.copy_(weight.double() + stored.to(weight.device))
    say(f"{name}: merged the LoRA adapter beside its weights into {len(pairs)} of them.")


def _scale(folder: Path, config: Mapping[str, Any]) -> float:
    beyond = [key for key in _BEYOND if config.get(key)]
    if config.get("bias", "none") != "none":
        beyond.append("bias")
    if config.get("peft_type") != "LORA" or beyond:
        what = ", ".join(beyond) or str(config.get("peft_type"))
        raise _not_plain(folder, f"it is not plain LoRA ({what})")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise _not_plain(folder, "its rank or its alpha is missing")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pairs(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """``A [r, d_in]`` and ``B [d_out, r]`` by module path."""
    try:
        tensors = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _not_plain(folder, str(error)) from None
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for key in sorted(tensors):
        if key.endswith(".lora_A.weight") and key.startswith(_PREFIX):
            path = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
            other = tensors.get(f"{_PREFIX}{path}.lora_B.weight")
            if (
                other is not None
                and tensors[key].ndim == other.ndim == 2
                and len(tensors[key]) == other.shape[1]
            ):
                pairs[path] = tensors[key], other
    if 2 * len(pairs) != len(tensors):
        unknown = next(k for k in sorted(tensors) if not _in_a_pair(k, pairs))
        raise _not_plain(folder, f"it holds more than pairs of matrices ({unknown})")
    return pairs


def _in_a_pair(key: str, pairs: Mapping[str, Any]) -> bool:
    path = key.removeprefix(_PREFIX)
    return any(path in (f"{p}.lora_A.weight", f"{p}.lora_B.weight") for p in pairs)


def _not_plain(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"{folder / _CONFIG}: the adapter beside the weights cannot be merged here: {why}; "
        "merge it with peft (merge_and_unload), or move the adapter_* files away to edit the model "
        "without it"
    )
