"""Checkpoints with packed weights: unpacked on loading if possible, otherwise refused.

Packed weights can be neither edited nor saved beside dense ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from collabedit.errors import ModelError
from collabedit.progress import say

__all__ = ["Unpacking", "unpacked", "unpacking"]

_BITSANDBYTES = "bitsandbytes"
#: Methods whose weights a package of that name unpacks.
_BY_PACKAGE = (_BITSANDBYTES, "compressed-tensors")
_DENSE = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


@dataclass(frozen=True)
class Unpacking:
    """How the weights of a packed checkpoint become dense.

    Attributes:
        options: arguments of ``from_pretrained`` that unpack them as they are read.
        afterwards: whether they are unpacked once the model is loaded instead.
    """

    options: Mapping[str, Any]
    afterwards: bool = False


def unpacking(name: str, config: Any) -> Unpacking | None:
    """How a model's weights become dense, announced in a line; ``None`` if they already are.

    Args:
        name: what the user called the model.
        config: its configuration.

    Raises:
        ModelError: when its weights are packed in a way that cannot be unpacked here.
    """
    packed = _quantisation(config)
    if packed is None:
        return None
    method = _method(packed)
    _require_package(name, method)
    by_bitsandbytes = method.startswith(_BITSANDBYTES)
    found = Unpacking({}, afterwards=True) if by_bitsandbytes else _while_read(packed)
    if found is None:
        raise ModelError(
            f"{name}: its weights are packed ({method}), so they can be neither edited nor saved "
            "as they are; use the unpacked original that its model card names, or a GGUF file of it"
        )
    say(f"{name}: unpacking its weights ({method}); the edited model will be saved unpacked.")
    return found


def unpacked(name: str, hf: Any, how: Unpacking) -> Any:
    """A loaded model with dense weights, which will be saved that way.

    Raises:
        ModelError: when some of its weights are still packed.
    """
    if how.afterwards:
        hf = hf.dequantize()
    hf.__dict__.pop("_weight_conversions", None)  # with it, saving would pack them again
    packed = [key for key, p in hf.named_parameters() if p.dtype not in _DENSE]
    if packed or getattr(hf, "hf_quantizer", None) is not None:
        raise ModelError(f"{name}: its weights could not be unpacked; use the unpacked original")
    return hf


def _quantisation(config: Any) -> Mapping[str, Any] | None:
    """The quantisation part of a configuration, or of its text model."""
    parts = [config, getattr(config, "text_config", None)]
    for part in parts:
        found = getattr(part, "quantization_config", None)
        if isinstance(found, Mapping):
            return found
        if found is not None:
            return dict(found.to_dict()) if hasattr(found, "to_dict") else {}
    return None


def _method(packed: Mapping[str, Any]) -> str:
    for bits in (4, 8):
        if packed.get(f"load_in_{bits}bit") or packed.get(f"_load_in_{bits}bit"):
            return f"{_BITSANDBYTES}, {bits} bits"
    method = packed.get("quant_method")
    return str(getattr(method, "value", method) or "an unknown format")


def _require_package(name: str, method: str) -> None:
    for package in _BY_PACKAGE:
        if method.startswith(package) and find_spec(package.replace("-", "_")) is None:
            raise ModelError(
                f"{name}: its weights are packed ({method}); to unpack them, install the package: "
                f"pip install {package}; or use the unpacked original that its model card names"
            )


def _while_read(packed: Mapping[str, Any]) -> Unpacking | None:
    """Unpacking by ``transformers`` while it reads; ``None`` if it cannot."""
    try:
        from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
    except ImportError:
        return None
    kind: Any = AUTO_QUANTIZATION_CONFIG_MAPPING.get(_method(packed))
    if kind is None or "dequantize" not in inspect.signature(kind.__init__).parameters:
        return None
    unpacker = kind.from_dict(dict(packed))
    unpacker.dequantize = True
    return Unpacking({"quantization_config": unpacker})
