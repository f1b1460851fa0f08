"""The plain way of ROME, MEMIT and EasyEdit code: one edit at a time, whole forward passes.

It is the baseline of the benchmarks and the independent check of the tests, so it shares nothing
with the package but the encoding of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from collabedit.editing import Contexts, Hyperparameters
from collabedit.models import LanguageModel
from collabedit.models.tokens import EncodedText, encode, fill_template
from collabedit.requests import EditRequest


def plain_target(
    model: LanguageModel, request: EditRequest, contexts: Contexts, settings: Hyperparameters
) -> tuple[Tensor, float]:
    """One edit's target ``[d_out]`` and its last loss; every step runs the whole model."""
    templates = [template for group in contexts for template in group]
    rows = encode(
        model.tokenizer,
        [fill_template(t, request.prompt, request.subject, request.target_new) for t in templates]
        + [fill_template("{}", "{} is a", request.subject)],
    )
    input_ids, mask, labels = _padded(rows, model.device)
    positions = torch.tensor([row.subject_last for row in rows], device=model.device)
    places = torch.arange(len(rows), device=model.device)
    delta = torch.zeros(model.structure.hidden_size, device=model.device, requires_grad=True)
    initial: list[Tensor] = []
    unchanged: list[Tensor] = []

    def add_delta(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if not initial:
            initial.append(hidden[0, positions[0]].detach().clone())
        hidden = hidden.index_put((places, positions), delta.expand(len(rows), -1), accumulate=True)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    optimizer = torch.optim.Adam([delta], lr=settings.target_learning_rate)
    handle = model.layer(settings.layers[-1]).register_forward_hook(add_delta)
    try:
        for step in range(settings.target_steps):
            optimizer.zero_grad()
            logits = model.hf(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
            log_probs = logits.float().log_softmax(dim=-1)
            now = log_probs[-1, positions[-1]]
            if not unchanged:
                unchanged.append(now.detach().clone())
            gold = log_probs[:-1].gather(2, labels[:-1].clamp(min=0)[..., None])[..., 0]
            wanted = labels[:-1] != -100
            nll = -(gold * wanted).sum(dim=1) / wanted.sum(dim=1)
            kept = functional.kl_div(unchanged[0], now, log_target=True, reduction="sum")
            decay = delta.norm() / initial[0].norm() ** 2
            loss = nll.mean() + settings.kl_factor * kept + settings.target_weight_decay * decay
            if loss < settings.loss_threshold or step == settings.target_steps - 1:
                break
            loss.backward()
            optimizer.step()
            limit = settings.clamp_factor * initial[0].norm()
            if delta.norm() > limit:
                with torch.no_grad():
                    delta.mul_(limit / delta.norm())
    finally:
        handle.remove()
    return (initial[0] + delta.detach()).float().cpu(), float(loss.detach())


def plain_loss(
    model: LanguageModel,
    request: EditRequest,
    contexts: Contexts,
    settings: Hyperparameters,
    target: Tensor,
) -> float:
    """Mean negative log-likelihood of an edit's new object over contexts, given its target."""
    templates = [template for group in contexts for template in group]
    rows = encode(
        model.tokenizer,
        [fill_template(t, request.prompt, request.subject, request.target_new) for t in templates],
    )
    input_ids, mask, labels = _padded(rows, model.device)
    positions = torch.tensor([row.subject_last for row in rows], device=model.device)
    places = torch.arange(len(rows), device=model.device)
    bare: list[Tensor] = []

    def set_target(_module: Any, _args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        bare.append(hidden[0, positions[0]].clone())
        hidden[places, positions] += target.to(hidden) - bare[0]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = model.layer(settings.layers[-1]).register_forward_hook(set_target)
    try:
        with torch.no_grad():
            logits = model.hf(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
    finally:
        handle.remove()
    gold = logits.float().log_softmax(dim=-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    wanted = labels != -100
    return float((-(gold * wanted).sum(dim=1) / wanted.sum(dim=1)).mean())


def plain_keys(
    model: LanguageModel, request: EditRequest, contexts: Contexts, layer: int
) -> Tensor:
    """One edit's key ``[d_in]`` at one layer: a whole pass for every template."""
    groups = []
    for group in contexts:
        keys = []
        for template in group:
            (row,) = encode(
                model.tokenizer, [fill_template(template, request.prompt, request.subject)]
            )
            seen: list[Tensor] = []
            handle = model.projection(layer).register_forward_pre_hook(
                lambda _module, args, seen=seen: seen.append(args[0].detach())
            )
            try:
                with torch.no_grad():
                    model.hf(torch.tensor([row.ids], device=model.device), use_cache=False)
            finally:
                handle.remove()
            keys.append(seen[0].view(len(row.ids), -1)[row.subject_last])
        groups.append(torch.stack(keys).mean(dim=0))
    return torch.stack(groups).mean(dim=0).double().cpu()


def _padded(rows: Sequence[EncodedText], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, mask, and labels at the positions that predict the target."""
    texts = [row.ids[:-1] if row.target_ids else row.ids for row in rows]
    width = max(len(text) for text in texts)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, -100)
    for place, (row, text) in enumerate(zip(rows, texts, strict=True)):
        input_ids[place, : len(text)] = torch.tensor(text)
        mask[place, : len(text)] = 1
        if row.target_ids:
            labels[place, row.target_start - 1 : len(text)] = torch.tensor(row.target_ids)
    return input_ids.to(device), mask.to(device), labels.to(device)
