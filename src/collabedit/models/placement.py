"""Where a model's weights are kept: on one device, on several, or offloaded to main memory or disk.

``transformers`` shards and offloads a model through accelerate, whose hooks fetch an offloaded
weight when its module runs and drop it afterwards; between uses it is on the meta device. Only this
file knows about it.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "device_of",
    "is_dispatched",
    "keep_in_memory",
    "room_for_weights",
    "spill_folder",
    "stored_weight",
]


def is_dispatched(hf: Any) -> bool:
    """Whether accelerate moves inputs or weights to where the model computes."""
    return hasattr(hf, "_hf_hook")


def device_of(module: nn.Module) -> torch.device:
    """The device on which a module computes, which is not where offloaded weights are kept."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def stored_weight(module: nn.Module, name: str) -> Tensor:
    """The value of a module's own parameter, wherever it is kept."""
    from accelerate.utils import align_module_device

    with align_module_device(module):
        return module.get_parameter(name).data


def keep_in_memory(module: nn.Module) -> None:
    """Stop offloading a module's own weights; from now on they stay where it computes.

    Offloaded weights are read from files of the unedited model, so a weight that is to change has
    to be in memory.
    """
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils import has_offloaded_params, set_module_tensor_to_device

    if not has_offloaded_params(module):
        return
    names = [name for name, _ in module.named_parameters(recurse=False)]
    values = {name: stored_weight(module, name).clone() for name in names}
    remove_hook_from_module(module)
    for name, value in values.items():
        set_module_tensor_to_device(module, name, value.device, value=value)


def spill_folder() -> str:
    """A folder for offloaded weights that the model's files hold in another form, such as experts.

    It is removed when the process ends.
    """
    folder = tempfile.mkdtemp(prefix="collabedit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def room_for_weights(
    limits: Mapping[int | str, int | str] | None, reserved: int
) -> dict[int | str, int]:
    """Bytes of weights that each device may hold.

    Args:
        limits: by device, ``0``, ``1``, ... or ``cpu``; what is free there by default.
        reserved: bytes to leave for everything else.
    """
    from accelerate.utils import get_max_memory

    room = get_max_memory(None if limits is None else dict(limits))
    return {device: max(0, size - reserved) for device, size in room.items()}
