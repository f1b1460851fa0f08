"""Perplexity of held-out text: the damage that editing does elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from collabedit.errors import InputError
from collabedit.models import LanguageModel
from collabedit.models.lengths import context_length
from collabedit.models.precision import quick_products
from collabedit.models.tokens import Batch, batches, leading_special_tokens
from collabedit.progress import progress

__all__ = ["mean_loss", "perplexity"]


def perplexity(
    model: LanguageModel, text: str, *, max_tokens: int | None = 20_000, window: int = 512
) -> float:
    """Perplexity of a text per token.

    The text is split into windows that do not overlap; the first token of each is given, not
    predicted. If the tokenizer adds a beginning-of-text token, every window starts with it.

    Args:
        model: the model, edited or not.
        text: the text, unrelated to the edits.
        max_tokens: use only this many tokens from its start; ``None`` for all.
        window: tokens per window, at most the model's context.

    Returns:
        ``exp`` of the mean negative log-likelihood over all predicted tokens.

    Raises:
        InputError: when the text has no token to predict.
    """
    rows = _windows(model, text, max_tokens, min(window, context_length(model) or window))
    return math.exp(mean_loss(model, rows))


def mean_loss(model: LanguageModel, rows: Sequence[Sequence[int]]) -> float:
    """Mean negative log-likelihood per token, in nats: the logarithm of perplexity.

    Args:
        model: the model, edited or not.
        rows: token ids, one row per window, whose first tokens are given and not predicted.

    Raises:
        InputError: when there is no token to predict.
    """
    count = sum(len(row) - 1 for row in rows)
    if count < 1:
        raise InputError("perplexity needs a text of two tokens or more; give a longer one")
    # The logits of a whole batch are held at once, so bound their number, not that of the tokens.
    numbers = 1 << (30 if model.device.type == "cuda" else 25)
    budget = numbers // model.hf.get_output_embeddings().weight.shape[0]
    losses: list[torch.Tensor] = []
    with progress("Perplexity", count, "tokens") as bar:
        for batch in batches(rows, budget, model.device):
            losses.append(_loss(model, batch))
            bar.advance(sum(len(rows[index]) - 1 for index in batch.index.tolist()))
    total = torch.stack(losses).cpu().double().sum()  # not every device has float64
    return float(total) / count


def _windows(
    model: LanguageModel, text: str, max_tokens: int | None, window: int
) -> Sequence[list[int]]:
    start = leading_special_tokens(model.tokenizer)
    encoded = model.tokenizer(text, add_special_tokens=False, verbose=False)
    ids: list[int] = encoded["input_ids"][:max_tokens]
    step = max(1, window - len(start))
    rows = [[*start, *ids[first : first + step]] for first in range(0, len(ids), step)]
    return [row for row in rows if len(row) > 1]


@quick_products()
@torch.no_grad()
def _loss(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Sum of the negative log-likelihoods of all tokens except each row's first."""
    logits = model.hf(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).logits
    targets = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)[:, 1:]
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="sum")
