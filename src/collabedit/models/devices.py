"""Where a model can be loaded on this machine."""

from __future__ import annotations

import torch

from collabedit.errors import InputError

__all__ = ["checked_device", "default_device"]


def default_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str | None) -> str:
    """The name of a device that exists here; :func:`default_device` if none is given.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ... or ``auto``, which spreads a model.

    Raises:
        InputError: when there is no such device.
    """
    if name is None:
        return default_device()
    if name == "auto":
        return name
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}; {_choices()}") from None
    if device.type == "meta":
        raise InputError(f"the device {name!r} holds no weights; {_choices()}")
    try:
        torch.empty(0, device=device)
    except Exception:  # each backend raises its own
        raise InputError(f"there is no device {name!r} on this machine; {_choices()}") from None
    return name


def _choices() -> str:
    available = ["cpu"]
    available += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        available.append("mps")
    return f"choose {', '.join(available)} or auto"
