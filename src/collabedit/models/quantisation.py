"""Checkpoints with packed weights: unpacked on loading where that can be done, else refused.

Packed weights can be neither edited nor saved beside dense ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from collabedit.errors import ModelError
from collabedit.progress import say

__all__ = ["unpacking_options"]


def unpacking_options(name: str, config: Any) -> dict[str, Any]:
    """Options of ``from_pretrained`` under which a model's weights are dense; says so.

    Args:
        name: what the user called the model.
        config: its configuration.

    Returns:
        Nothing for a model whose weights are dense already.

    Raises:
        ModelError: when its weights are packed in a way that is not unpacked on loading.
    """
    packed = _quantisation(config)
    if packed is None:
        return {}
    method = _method(packed)
    unpacker = _unpacker(packed)
    if unpacker is None:
        raise ModelError(
            f"{name}: its weights are packed ({method}), so they can be neither edited nor saved "
            "as they are; use the unpacked original that its model card names, or a GGUF file of it"
        )
    say(f"{name}: unpacking its {method} weights; the edited model will be saved unpacked.")
    return {"quantization_config": unpacker}


def _quantisation(config: Any) -> Mapping[str, Any] | None:
    """The quantisation part of a configuration, or of the text model's in it."""
    parts = [config, getattr(config, "text_config", None)]
    for part in parts:
        found = getattr(part, "quantization_config", None)
        if found is not None:
            return found if isinstance(found, Mapping) else dict(found.to_dict())
    return None


def _method(packed: Mapping[str, Any]) -> str:
    for bits in (4, 8):
        if packed.get(f"load_in_{bits}bit") or packed.get(f"_load_in_{bits}bit"):
            return f"bitsandbytes, {bits} bits"
    method = packed.get("quant_method")
    return str(getattr(method, "value", method) or "an unknown format")


def _unpacker(packed: Mapping[str, Any]) -> Any:
    """The configuration that unpacks on loading; ``None`` where there is none."""
    try:
        from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
    except ImportError:
        return None
    kind: Any = AUTO_QUANTIZATION_CONFIG_MAPPING.get(_method(packed))
    if kind is None or "dequantize" not in inspect.signature(kind.__init__).parameters:
        return None
    unpacker = kind.from_dict(dict(packed))
    unpacker.dequantize = True
    return unpacker
