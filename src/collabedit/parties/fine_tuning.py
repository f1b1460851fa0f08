"""Fine-tuning of one weight, FT-L and LocFT-BF: the baselines without a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from collabedit.algebra import LowRankUpdate
from collabedit.editors import Hyperparameters
from collabedit.models import hooks
from collabedit.models.language_model import LanguageModel
from collabedit.models.tokens import Batch, EncodedText, batches, encode, fill_template
from collabedit.progress import progress
from collabedit.requests import EditRequest

__all__ = ["fine_tune"]

#: Tokens in one forward and backward pass, which bounds the memory.
MAX_TOKENS = 1024


def fine_tune(
    model: LanguageModel, requests: Sequence[EditRequest], settings: Hyperparameters
) -> dict[str, LowRankUpdate]:
    """Teach one layer's down-projection the new objects.

    Adam on the mean over edits of the new object's negative log-likelihood per token after the bare
    prompt. FT-L (Zhu et al., 2020; ROME's ``ft_main`` with a norm constraint) takes all edits in
    one step and clips to ``|Delta_ij| <= ft_norm_bound`` after it. LocFT-BF (Yang et al., 2025)
    goes through shuffled mini-batches epoch by epoch, without a bound, and teaches the end token.
    A batch whose loss is below the threshold is left as it is; training stops when the mean over
    an epoch is. The order in which the edits are given does not matter.

    Args:
        model: the model; it is left unchanged.
        requests: the edits.
        settings: a single layer, ``ft_*``, and ``loss_threshold``.

    Returns:
        ``Delta [d_out, d_in]`` of the layer, by the weight's name.
    """
    (layer,) = settings.layers
    (name,) = model.weight_names([layer])
    weight = model.stored(name)
    change = torch.zeros_like(weight, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=settings.ft_learning_rate)
    texts = _texts(model, requests, settings.ft_end_token)
    shuffling = torch.Generator().manual_seed(0)
    with progress("Fine-tuning", settings.ft_steps, "steps") as bar:
        for _ in range(settings.ft_steps):
            total = 0.0
            for batch in _mini_batches(texts, settings.ft_batch_size, shuffling):
                optimizer.zero_grad()
                loss = _backward(model, batch, name, weight, change)
                total += loss * len(batch) / len(texts)
                if loss >= settings.loss_threshold:
                    _step(optimizer, change, settings.ft_norm_bound)
            if total < settings.loss_threshold:
                break
            bar.advance(1)
    delta = change.detach().cpu().double()
    return {name: LowRankUpdate.from_dense(model.structure.matrix(delta))}


def _step(optimizer: torch.optim.Optimizer, change: Tensor, bound: float | None) -> None:
    optimizer.step()
    if bound is not None:
        with torch.no_grad():
            change.clamp_(-bound, bound)


def _texts(
    model: LanguageModel, requests: Sequence[EditRequest], end_token: bool
) -> list[EncodedText]:
    """The edits' texts in a canonical order, so that shuffling does not depend on the given one."""
    ordered = sorted(requests, key=lambda r: (r.prompt, r.subject, r.target_new))
    filled = [fill_template("{}", r.prompt, r.subject, r.target_new) for r in ordered]
    texts = encode(model.tokenizer, filled)
    end = model.tokenizer.eos_token_id
    if not end_token or end is None:
        return texts
    return [replace(text, ids=(*text.ids, end)) for text in texts]


def _mini_batches(
    texts: Sequence[EncodedText], size: int | None, generator: torch.Generator
) -> list[Sequence[EncodedText]]:
    if size is None or size >= len(texts):
        return [texts]
    order = torch.randperm(len(texts), generator=generator).tolist()
    return [
        [texts[index] for index in order[start : start + size]]
        for start in range(0, len(order), size)
    ]


def _backward(
    model: LanguageModel, texts: Sequence[EncodedText], name: str, weight: Tensor, change: Tensor
) -> float:
    """The loss; adds its gradient to that of ``change``, which has the weight's stored layout."""
    total = 0.0
    for batch in batches([text.ids[:-1] for text in texts], MAX_TOKENS, model.device):
        changed = {name: (weight.float() + change).to(weight.dtype)}
        loss = _loss(model, batch, [texts[index] for index in batch.index], changed) / len(texts)
        loss.backward()
        total += loss.item()
    return total


def _loss(
    model: LanguageModel, batch: Batch, texts: Sequence[EncodedText], changed: dict[str, Tensor]
) -> Tensor:
    """Sum over texts of the mean over the target's tokens of their negative log-likelihoods."""
    tokens = [
        (row, column, text.ids[column + 1], 1 / len(text.target_ids))
        for row, text in enumerate(texts)
        for column in range(text.target_start - 1, len(text.ids) - 1)
    ]
    rows, columns, targets, shares = (torch.tensor(part) for part in zip(*tokens, strict=True))
    with hooks.gathered(model.head, rows, columns):
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        logits = functional_call(model.hf, changed, (), {**inputs, "use_cache": False}).logits[0]
    log_probs = logits.float().log_softmax(dim=-1)
    gold = log_probs.gather(1, targets.to(logits.device)[:, None])[:, 0]
    loss: Tensor = -(gold * shares.to(logits.device)).sum()
    return loss
