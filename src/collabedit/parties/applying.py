"""Writing a delta into a model."""

from __future__ import annotations

from torch import Tensor

from collabedit.errors import RoundError
from collabedit.messages import Delta
from collabedit.models.language_model import LanguageModel

__all__ = ["apply_delta", "check_delta_model", "weights_of"]


def check_delta_model(model: LanguageModel, delta: Delta) -> None:
    """Check that a model is the one that a delta was made for.

    Raises:
        RoundError: when it is not.
    """
    expected = delta.metadata.model_sha256
    if model.fingerprint(list(expected)) != expected:
        raise RoundError(
            f"{model.name} is not the model that the delta was made for "
            f"({delta.metadata.model}, {delta.metadata.dtype}): its weights differ"
        )


def weights_of(model: LanguageModel, delta: Delta) -> dict[str, Tensor]:
    """The weights that a delta changes, as they were before its round.

    Args:
        model: the unedited model.
        delta: the delta of a round.

    Returns:
        By name, views ``[d_out, d_in]`` of the model's weights.

    Raises:
        RoundError: when the model is not the one that the delta was made for.
    """
    check_delta_model(model, delta)
    return {name: model.weight(name) for name in delta.changes}


def apply_delta(model: LanguageModel, delta: Delta) -> None:
    """Write a delta into a model permanently.

    Args:
        model: the unedited model; its weights change.
        delta: the delta of a round.

    Raises:
        RoundError: when the model is not the one that the delta was made for.
    """
    check_delta_model(model, delta)
    model.apply_(delta.changes)
