"""The one generation loop: rows of token ids, extended token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from collabedit.models.hooks import gathered
from collabedit.models.key_values import cache_of, given_cache
from collabedit.models.language_model import LanguageModel

__all__ = ["Choose", "extend"]

#: Maps logits ``[rows, vocabulary]`` in float32 and the position to fill to one token id per row,
#: ``[rows]`` or ``[rows, 1]``.
Choose = Callable[[Tensor, int], Tensor]


@torch.no_grad()
def extend(model: LanguageModel, rows: Tensor, length: int, choose: Choose) -> Tensor:
    """Extend rows of equal length, each step feeding only the newest token.

    The head computes only the last position. A model that caches no keys and values is fed the
    whole rows at every step.

    Args:
        model: the model.
        rows: ``[rows, given]``, token ids on the model's device.
        length: tokens of a row at the end.
        choose: picks the next tokens.

    Returns:
        ``[rows, length]``, or ``rows`` if they are already that long.
    """
    count = len(rows)
    fed, cache = rows, None
    while rows.shape[1] < length:
        with gathered(model.head, torch.arange(count), torch.full((count,), -1)):
            given = given_cache(model.hf, cache)
            output: Any = model.hf(input_ids=fed, use_cache=True, **given)
        cache = cache_of(output)
        chosen = choose(output.logits[0].float(), rows.shape[1]).view(-1, 1).to(rows)
        rows = torch.cat([rows, chosen], dim=1)
        fed = rows if cache is None else chosen
    return rows
