"""The plain way, as in the code of ROME, MEMIT and EasyEdit: one edit at a time, whole passes.

It is the baseline of the benchmarks and the independent check of the tests, so it shares nothing
with the package except the encoding of texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from collabedit.editors import Contexts, Hyperparameters
from collabedit.models import LanguageModel
from collabedit.models.tokens import EncodedText, PromptText, encode_edits, fill_template
from collabedit.requests import EditRequest


class PlainObjective:
    """The objective of one edit's target, computed by whole passes of the model.

    Args:
        model: the model.
        request: the edit.
        contexts: templates, in groups.
        settings: the layer, and the factors of the loss.
    """

    def __init__(
        self,
        model: LanguageModel,
        request: EditRequest,
        contexts: Contexts,
        settings: Hyperparameters,
    ) -> None:
        self.model = model
        self.settings = settings
        templates = [template for group in contexts for template in group]
        prompt, subject, answer = request.prompt, request.subject, request.target_new
        rows = encode_edits(
            model.tokenizer,
            [fill_template(template, prompt, subject, answer) for template in templates]
            + [fill_template("{}", "{} is a", subject)],
        )
        self.input_ids, self.mask, self.labels = _padded(rows, model.device)
        self.positions = torch.tensor([row.subject_last for row in rows], device=model.device)
        self.rows = torch.arange(len(rows), device=model.device)
        self.initial = torch.zeros(model.structure.hidden_size, device=model.device)
        self._unchanged: Tensor | None = None

    def loss(self, delta: Tensor) -> Tensor:
        """The loss with ``delta [d_out]`` added at the subject's last token; call it first with 0.

        The first call also records the state that ``delta`` starts from, ``initial [d_out]``.
        """
        hidden, log_probs = self._run(delta)
        if self._unchanged is None:
            self.initial = hidden[0, self.positions[0]].detach().clone()
            self._unchanged = log_probs[-1, self.positions[-1]].detach().clone()
        labels = self.labels[:-1]
        gold = log_probs[:-1].gather(2, labels.clamp(min=0)[..., None])[..., 0]
        wanted = labels != -100
        nll = -(gold * wanted).sum(dim=1) / wanted.sum(dim=1)
        now = log_probs[-1, self.positions[-1]]
        kept = functional.kl_div(self._unchanged, now, log_target=True, reduction="sum")
        decay = delta.norm() / self.initial.norm() ** 2
        settings = self.settings
        return nll.mean() + settings.kl_factor * kept + settings.target_weight_decay * decay

    def _run(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The states that ``delta`` is added to, ``[b, s, d_out]``, and ``[b, s, vocabulary]``."""
        seen: list[Tensor] = []

        def add_delta(_module: Any, _args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            seen.append(hidden)
            indices = (self.rows, self.positions)
            hidden = hidden.index_put(
                indices, delta.to(hidden).expand(len(self.rows), -1), accumulate=True
            )
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        block = self.model.layer(self.settings.layers[-1])
        # If a norm follows the MLP before its output is added, targets are outputs of the MLP.
        changed = block.mlp if hasattr(block, "post_feedforward_layernorm") else block
        handle = changed.register_forward_hook(add_delta)
        try:
            output = self.model.hf(
                input_ids=self.input_ids, attention_mask=self.mask, use_cache=False
            )
        finally:
            handle.remove()
        return seen[0], output.logits.float().log_softmax(dim=-1)


def plain_target(
    model: LanguageModel, request: EditRequest, contexts: Contexts, settings: Hyperparameters
) -> tuple[Tensor, float]:
    """One edit's target ``[d_out]`` and its last loss; every step runs the whole model."""
    objective = PlainObjective(model, request, contexts, settings)
    delta = torch.zeros_like(objective.initial, requires_grad=True)
    betas = (settings.target_momentum, 0.999)
    optimizer = torch.optim.Adam([delta], lr=settings.target_learning_rate, betas=betas)
    for step in range(settings.target_steps):
        optimizer.zero_grad()
        loss = objective.loss(delta)
        if loss < settings.loss_threshold or step == settings.target_steps - 1:
            break
        loss.backward()
        optimizer.step()
        limit = settings.clamp_factor * objective.initial.norm()
        if delta.norm() > limit:
            with torch.no_grad():
                delta.mul_(limit / delta.norm())
    return (objective.initial + delta.detach()).float().cpu(), float(loss.detach())


@torch.no_grad()
def plain_loss(
    model: LanguageModel,
    request: EditRequest,
    contexts: Contexts,
    settings: Hyperparameters,
    target: Tensor,
) -> float:
    """The loss of one edit's target ``[d_out]``."""
    objective = PlainObjective(model, request, contexts, settings)
    objective.loss(torch.zeros_like(objective.initial))
    return float(objective.loss(target.to(objective.initial) - objective.initial))


def plain_keys(
    model: LanguageModel, request: EditRequest, contexts: Contexts, layer: int
) -> Tensor:
    """One edit's key ``[d_in]`` at one layer, with a whole pass for every template."""
    groups = []
    for group in contexts:
        keys = []
        for template in group:
            (row,) = encode_edits(
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


@torch.no_grad()
def plain_hidden(model: LanguageModel, request: EditRequest, layer: int) -> Tensor:
    """One edit's hidden state ``[d_out]`` at the output of a layer, from a whole pass."""
    (row,) = encode_edits(model.tokenizer, [fill_template("{}", request.prompt, request.subject)])
    seen: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = model.layer(layer).register_forward_hook(keep)
    try:
        model.hf(torch.tensor([row.ids], device=model.device), use_cache=False)
    finally:
        handle.remove()
    return seen[0].view(len(row.ids), -1)[row.subject_last].double().cpu()


@torch.no_grad()
def padded_keys(
    model: LanguageModel, requests: Sequence[EditRequest], contexts: Contexts, layer: int
) -> Tensor:
    """Keys ``[d_in, n]`` at one layer as MEMIT's code batches them: whole passes of 128 texts."""
    templates = [template for group in contexts for template in group]
    texts = [fill_template(t, r.prompt, r.subject) for r in requests for t in templates]
    rows = encode_edits(model.tokenizer, texts)
    keys: list[Tensor] = []
    for start in range(0, len(rows), 128):
        chunk = rows[start : start + 128]
        input_ids, mask, _ = _padded(chunk, model.device)
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        states = _projection_input(model, layer, inputs, whole=True).view(*input_ids.shape, -1)
        keys += [states[index, row.subject_last] for index, row in enumerate(chunk)]
    per_edit = torch.stack(keys).view(len(requests), len(templates), -1)
    groups = per_edit.split([len(group) for group in contexts], dim=1)
    means = torch.stack([group.mean(dim=1) for group in groups])
    return means.mean(dim=0).T.double().cpu()


@torch.no_grad()
def plain_second_moment(
    model: LanguageModel, inputs: Iterable[Mapping[str, Any]], layer: int
) -> Tensor:
    """``E[k k^T] [d_in, d_in]`` at one layer, as ROME's code collects it.

    That is: one layer at a time, a pass up to that layer, and one product per batch; but summed in
    float64, to serve as a reference.

    Args:
        model: the model.
        inputs: keyword arguments of the model, one mapping per batch.
        layer: which decoder layer.
    """
    size = model.structure.mlp_size
    total, count = torch.zeros(size, size, dtype=torch.float64), 0
    for batch in inputs:
        keys = _projection_input(model, layer, batch).reshape(-1, size)
        if batch.get("attention_mask") is not None:
            keys = keys[batch["attention_mask"].flatten().bool()]
        total += (keys.T @ keys).cpu()
        count += len(keys)
    return total / count


class _Reached(Exception):  # noqa: N818  (no error)
    """Ends a pass at the module of interest, like ``stop=True`` in ROME's ``nethook``."""


def _projection_input(
    model: LanguageModel, layer: int, inputs: Mapping[str, Any], *, whole: bool = False
) -> Tensor:
    seen: list[Tensor] = []

    def keep(_module: Any, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])
        if not whole:
            raise _Reached

    handle = model.projection(layer).register_forward_pre_hook(keep)
    try:
        model.hf(**inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


@torch.no_grad()
def plain_score(model: LanguageModel, prompt: str, target: str) -> float:
    """Mean negative log-likelihood per target token, from one text and all its logits."""
    (row,) = encode_edits(model.tokenizer, [PromptText(prompt, target)])
    logits = model.hf(torch.tensor([row.ids], device=model.device), use_cache=False).logits[0]
    log_probs = logits.float().log_softmax(dim=-1)[row.target_start - 1 : -1]
    gold = torch.tensor(row.target_ids, device=model.device)
    return float(-log_probs.gather(1, gold[:, None]).mean())


@torch.no_grad()
def padded_scores(model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Mean negative log-likelihoods of one record in one padded batch, as in MEMIT's code."""
    rows = encode_edits(model.tokenizer, [PromptText(*pair) for pair in pairs])
    input_ids, mask, labels = _padded(rows, model.device)
    logits = model.hf(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
    losses = functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none"
    )
    means: list[float] = (losses.sum(dim=1) / (labels != -100).sum(dim=1)).tolist()
    return means


class PlainUpload(NamedTuple):
    """What a party sends for one layer, in the paper.

    Attributes:
        delta: its own update ``[d_out, d_in]``.
        moment: ``K K^T [d_in, d_in]``.
    """

    delta: Tensor
    moment: Tensor


def plain_upload(prior: Tensor, keys: Tensor, residuals: Tensor) -> PlainUpload:
    """One party's part of CollabEdit as its paper's code does it, by dense matrices.

    Args:
        prior: ``A0 [d_in, d_in]``.
        keys: ``K [d_in, n]``.
        residuals: ``R [d_out, n]``.
    """
    moment = keys @ keys.T
    adjusted = torch.linalg.solve(prior + moment, keys)
    return PlainUpload(residuals @ adjusted.T, moment)


def plain_merge(prior: Tensor, uploads: Iterable[PlainUpload]) -> Tensor:
    """The coordinator's part: ``sum_j Delta_j (A0 + K_j K_j^T)`` times an explicit inverse."""
    cross, system = torch.zeros(()), prior.clone()
    for delta, moment in uploads:
        cross = cross + delta @ (moment + prior)
        system += moment
    return cross @ system.inverse()


def _padded(rows: Sequence[EncodedText], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, mask, and labels at the positions that predict the target."""
    texts = [row.ids[:-1] if row.target_ids else row.ids for row in rows]
    width = max(len(text) for text in texts)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, -100)
    for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
        input_ids[index, : len(text)] = torch.tensor(text)
        mask[index, : len(text)] = 1
        if row.target_ids:
            labels[index, row.target_start - 1 : len(text)] = torch.tensor(row.target_ids)
    return input_ids.to(device), mask.to(device), labels.to(device)
