"""One line for whatever goes wrong while a model is loaded: the cause and the remedy."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from collabedit.errors import CollabEditError, ModelError

__all__ = ["explained", "reason_of"]

_LONGEST = 300
_PICKLE = ("weights_only", "Unable to load weights from pytorch checkpoint")
_PACKAGE = re.compile(r"pip install (?:-U |--upgrade )?[`'\"]?([A-Za-z][\w.\-\[\]]*)")


@contextmanager
def explained(name: str, what: str = "the model", remedy: str = "") -> Iterator[None]:
    """Turn any exception that a library raises while loading into one line.

    ``transformers`` raises errors of a dozen classes, its own and those of other packages, so all
    are caught here; the original stays attached as the cause.

    Args:
        name: what the user called it.
        what: what is being loaded.
        remedy: what to do, beyond what follows from the error.

    Raises:
        ModelError: in place of any other exception.
    """
    try:
        yield
    except CollabEditError:
        raise
    except Exception as error:
        end = f"; {remedy}" if remedy else ""
        raise ModelError(f"cannot load {what} {name!r}: {reason_of(error)}{end}") from error


def reason_of(error: Exception) -> str:
    """What went wrong and what to do, in one line without a full stop."""
    text = " ".join(str(error).split())
    if isinstance(error, SafetensorError):
        return f"a .safetensors file is damaged ({text}); download it again"
    if isinstance(error, pickle.UnpicklingError) or any(sign in text for sign in _PICKLE):
        return (
            "its .bin file is damaged or holds more than tensors, which could run foreign code and "
            "is never read; use a copy in safetensors"
        )
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        return "it does not fit into memory; try --dtype bfloat16 or --device auto"
    if "trust_remote_code" in text or "custom code" in text:
        return (
            "it ships its own Python code, which runs only if you allow it: read the code, "
            "then give --trust-remote-code (in Python: trust_remote_code=True)"
        )
    if "Unrecognized configuration class" in text:
        return (
            "transformers knows it as another kind of model, not as a causal language model "
            f"({_class_named(text)}); give a text model"
        )
    if isinstance(error, KeyError):
        return f"{_shortened(text)} is missing from its files, or unknown to transformers"
    if isinstance(error, ImportError):
        return _missing_package(text, error)
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return f"{_shortened(text)}; a newer transformers may know it"
    return _shortened(text or type(error).__name__)


def _class_named(text: str) -> str:
    match = re.search(r"<class '[\w.]*?(\w+)'>", text)
    return match.group(1) if match else "by its config.json"


def _missing_package(text: str, error: ImportError) -> str:
    if found := _PACKAGE.search(text):
        return f"a package is missing; install it with: pip install {found.group(1)}"
    if error.name:
        return f"the package {error.name!r} is missing; install it with: pip install {error.name}"
    return _shortened(text)


def _shortened(text: str) -> str:
    text = text.rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
