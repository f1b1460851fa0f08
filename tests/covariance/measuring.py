"""The plain way to measure second moments, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from collabedit.models import LanguageModel

__all__ = ["brute_force", "relative", "silent"]


def brute_force(model: LanguageModel, layer: int, windows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The mean of outer products, one text and one token at a time."""
    inputs: list[torch.Tensor] = []
    handle = model.projection(layer).register_forward_pre_hook(
        lambda _module, args: inputs.append(args[0].reshape(-1, args[0].shape[-1]))
    )
    for window in windows:
        model.hf(input_ids=torch.tensor([list(window)], device=model.device))
    handle.remove()
    tokens = torch.cat(inputs).double()
    return sum(torch.outer(token, token) for token in tokens) / len(tokens)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def silent(_message: str) -> None:
    pass
