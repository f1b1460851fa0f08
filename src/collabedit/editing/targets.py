"""Targets: the hidden state at the last edited layer that makes the model say the new object.

The usual code optimises one edit at a time and runs the whole model in each step. Here ``delta``
enters at one layer and one position, so

- hidden states up to that layer are computed once;
- keys and values of the tokens before the subject's last are computed once, in all layers;
- only the tokens from there on run in each step, through the layers above, and the head runs only
  where a target token is predicted;
- those layers compute in bfloat16 where the processor is quick at it, while ``delta``, the loss
  and the head stay in float32;
- the texts of many edits run together, grouped by their number of remaining tokens so that none
  is padding, and an edit that has converged leaves the batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collabedit.editing.contexts import Contexts, context_weights
from collabedit.editing.hyperparameters import Hyperparameters
from collabedit.errors import InputError
from collabedit.files import cache_directory, load_tensors, save_tensors, sha256_of_json
from collabedit.models import hooks
from collabedit.models.language_model import LanguageModel, has_fast_bfloat16
from collabedit.models.tokens import encode, fill_template
from collabedit.progress import Progress, progress
from collabedit.requests import EditRequest

__all__ = ["TargetCache", "optimise_targets"]

#: Edits optimised together, and tokens of their texts in one forward and backward pass.
MAX_EDITS = 64
MAX_TOKENS = 512

_KL_PROMPT = "{} is a"


class TargetCache:
    """Targets on disk, each under a digest of everything that it depends on.

    That is: all weights of the model as they are, the contexts, the settings and the request. The
    cache lies in a folder that only this user can read; it holds vectors and no text.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_directory("targets")

    def path(self, key: str) -> Path:
        """Where the target of a key lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def load(self, key: str) -> Tensor | None:
        """The stored target ``[d_out]``, or ``None``."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            return load_tensors(path, "cached target")[0]["target"]
        except (InputError, KeyError):
            return None

    def store(self, key: str, target: Tensor) -> None:
        """Keep a target ``[d_out]``."""
        save_tensors(self.path(key), {"target": target}, {})


def optimise_targets(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
    *,
    cache: TargetCache | None = None,
    quick: bool = True,
    max_edits: int = MAX_EDITS,
    max_tokens: int = MAX_TOKENS,
) -> Tensor:
    """Find the target of every request on the model in its current state.

    Minimises, over ``delta`` added to the last edited layer's output at the subject's last token,
    the mean over contexts of the new object's negative log-likelihood per token, plus
    ``kl_factor * KL(p || p_0)`` of the next token after the subject in "{subject} is a", plus
    ``weight_decay * |delta| / |h|^2``, by Adam within ``|delta| <= clamp_factor * |h|`` (MEMIT,
    section 4.2 and ``compute_z``).

    Args:
        model: the model.
        requests: ``n`` edits.
        contexts: template groups; all templates count alike here.
        settings: steps, rates and factors, and the layers, of which the last is meant.
        cache: where to look for, and keep, finished targets.
        quick: run the steps in bfloat16 where that is much faster.
        max_edits: edits optimised together.
        max_tokens: tokens in one forward and backward pass, which bounds the memory.

    Returns:
        ``Z [d_out, n]``, float32, on the CPU.
    """
    quick = quick and model.dtype == torch.float32 and has_fast_bfloat16(model.device)
    keys = [""] * len(requests)
    if cache is not None:
        keys = _cache_keys(model, requests, contexts, settings, quick)
    found = [cache.load(key) if cache else None for key in keys]
    targets = torch.zeros(model.structure.hidden_size, len(requests))
    missing = []
    for place, target in enumerate(found):
        if target is None:
            missing.append(place)
        else:
            targets[:, place] = target
    if not missing:
        return targets
    stepper = model.quick_copy() if quick else model
    prepared = _prepare(model, [requests[place] for place in missing], contexts)
    order = sorted(range(len(missing)), key=lambda i: prepared[i].texts[0].suffix_length)
    with progress("Optimising targets", len(missing), "edits") as bar:
        for start in range(0, len(order), max_edits):
            chunk = order[start : start + max_edits]
            solver = _Solver(model, stepper, [prepared[i] for i in chunk], settings, max_tokens)
            for i, target in zip(chunk, solver.run(bar), strict=True):
                targets[:, missing[i]] = target
                if cache is not None:
                    cache.store(keys[missing[i]], target)
    return targets


def _cache_keys(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
    quick: bool,
) -> list[str]:
    shared = {
        "version": 2,
        "quick": quick,
        "state": model.state_fingerprint(),
        "contexts": contexts,
        "layer": settings.layers[-1],
        "settings": settings.model_dump(mode="json", exclude={"layers", "prior_weight"}),
    }
    common = sha256_of_json(shared)
    return [sha256_of_json([common, r.prompt, r.subject, r.target_new]) for r in requests]


@dataclass(frozen=True)
class _Text:
    """One text of an edit.

    Attributes:
        ids: token ids up to the last one that predicts something.
        start: position of the subject's last token.
        target_ids: what the last positions predict; none for the text that must not change.
        bare: whether this is the prompt without a context.
    """

    ids: tuple[int, ...]
    start: int
    target_ids: tuple[int, ...] = ()
    bare: bool = False

    @property
    def suffix_length(self) -> int:
        """Number of tokens from the subject's last one on."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class _Edit:
    """The texts of one edit, the bare prompt first, and the one that must not change."""

    texts: list[_Text]
    unchanged: _Text


def _prepare(
    model: LanguageModel, requests: Sequence[EditRequest], contexts: Contexts
) -> list[_Edit]:
    templates = [template for template, _ in context_weights(contexts)]
    filled = [
        fill_template(template, request.prompt, request.subject, request.target_new)
        for request in requests
        for template in templates
    ]
    encoded = encode(model.tokenizer, filled)
    kept = encode(model.tokenizer, [fill_template("{}", _KL_PROMPT, r.subject) for r in requests])
    count = len(templates)
    texts = [
        _Text(text.ids[:-1], text.subject_last, text.target_ids, bare=i % count == 0)
        for i, text in enumerate(encoded)
    ]
    return [
        _Edit(
            texts[count * i : count * (i + 1)],
            _Text(row.ids[: row.subject_last + 1], row.subject_last),
        )
        for i, row in enumerate(kept)
    ]


@dataclass
class _Group:
    """Texts with the same number ``s`` of tokens from the subject's last one on.

    Attributes:
        edit: ``[b]``, each text's edit.
        input_ids: ``[b, s]``.
        attention_mask: ``[b, p + s]``; prefixes are padded on the left.
        position_ids: ``[b, s]``.
        prefix: for each layer, keys and values ``[b, heads, p, head size]``.
        hidden: ``[b, s, d_out]``, the unedited output of the last edited layer.
        target_ids: ``[b, t]``, what the last ``t`` positions predict; -100 where shorter.
        unchanged: ``[b, vocabulary]``, log-probabilities to keep; only where nothing is predicted.
    """

    edit: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    prefix: list[tuple[Tensor, Tensor]]
    hidden: Tensor
    target_ids: Tensor
    unchanged: Tensor | None = None

    def select(self, rows: Tensor) -> _Group:
        """The group of some of the texts."""
        return _Group(
            self.edit[rows],
            self.input_ids[rows],
            self.attention_mask[rows],
            self.position_ids[rows],
            [(keys[rows], values[rows]) for keys, values in self.prefix],
            self.hidden[rows],
            self.target_ids[rows],
            None if self.unchanged is None else self.unchanged[rows],
        )


class _Solver:
    """Optimises the targets of one batch of edits."""

    def __init__(
        self,
        model: LanguageModel,
        stepper: LanguageModel,
        edits: Sequence[_Edit],
        settings: Hyperparameters,
        max_tokens: int,
    ) -> None:
        self.model = model
        self.stepper = stepper
        self.settings = settings
        self.layer = settings.layers[-1]
        self.count = len(edits)
        self.contexts = len(edits[0].texts)
        self.initial = torch.zeros(
            self.count, model.structure.hidden_size, device=model.device, dtype=torch.float32
        )
        self._output_like: Any = None
        self.groups = [self._group(texts) for texts in _by_length(edits, max_tokens)]

    def run(self, bar: Progress) -> Tensor:
        """Optimise all edits; returns ``[edits, d_out]`` on the CPU."""
        settings = self.settings
        delta = torch.zeros_like(self.initial, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=settings.target_learning_rate)
        limit = settings.clamp_factor * self.initial.norm(dim=1, keepdim=True)
        active = torch.ones(self.count, dtype=torch.bool, device=delta.device)
        for step in range(settings.target_steps):
            last = step == settings.target_steps - 1
            optimizer.zero_grad()
            loss = self._loss(delta, backward=not last)
            finished = active & (loss < settings.loss_threshold) if not last else active
            active = active & ~finished
            bar.advance(int(finished.sum()))
            if not active.any():
                break
            frozen = delta.detach().clone()
            optimizer.step()
            with torch.no_grad():
                norm = delta.norm(dim=1, keepdim=True)
                delta.mul_((limit / norm.clamp(min=1e-12)).clamp(max=1.0))
                delta[~active] = frozen[~active]
            self._drop_finished(active)
        return (self.initial + delta.detach()).cpu()

    def _loss(self, delta: Tensor, *, backward: bool) -> Tensor:
        """Loss of each edit ``[edits]``; gradients of the active ones gather in ``delta``."""
        size = delta.norm(dim=1) / self.initial.norm(dim=1) ** 2
        decay = self.settings.target_weight_decay * size
        if backward:
            decay.sum().backward()
        total: Tensor = decay.detach()
        for group in self.groups:
            with torch.set_grad_enabled(backward):
                part = self._group_loss(group, delta)
                if backward:
                    part.sum().backward()
            total = total.index_add(0, group.edit, part.detach())
        return total

    def _group_loss(self, group: _Group, delta: Tensor) -> Tensor:
        """What each text ``[b]`` adds to its edit's loss."""
        first = group.hidden[:, :1] + delta[group.edit][:, None]
        hidden = torch.cat([first, group.hidden[:, 1:]], dim=1).to(self.stepper.dtype)
        if group.unchanged is not None:
            positions = torch.zeros_like(group.edit)[:, None]
        else:
            steps = torch.arange(group.target_ids.shape[1], device=delta.device)
            positions = (hidden.shape[1] - len(steps) + steps).expand(len(group.edit), -1)
        rows = torch.arange(len(group.edit), device=delta.device)[:, None].expand_as(positions)
        logits = self._suffix_logits(group, hidden, rows.flatten(), positions.flatten())
        log_probs = logits.float().log_softmax(dim=-1).view(*positions.shape, -1)
        if group.unchanged is not None:
            now = log_probs[:, 0]
            divergence: Tensor = (now.exp() * (now - group.unchanged)).sum(dim=-1)
            return self.settings.kl_factor * divergence
        wanted = group.target_ids != -100
        gold = log_probs.gather(2, group.target_ids.clamp(min=0)[..., None])[..., 0]
        mean = -(gold * wanted).sum(dim=1) / wanted.sum(dim=1)
        return mean / self.contexts

    def _suffix_logits(
        self, group: _Group, hidden: Tensor, rows: Tensor, positions: Tensor
    ) -> Tensor:
        """Logits ``[n, vocabulary]``, by the layers above the last edited one."""
        stepper = self.stepper
        below = [stepper.layer(layer) for layer in range(self.layer)]
        with ExitStack() as stack:
            stack.enter_context(
                hooks.replaced_layers(below, stepper.layer(self.layer), self._output_like, hidden)
            )
            stack.enter_context(hooks.gathered(stepper.head, rows, positions))
            output = stepper.hf(
                input_ids=group.input_ids,
                attention_mask=group.attention_mask,
                position_ids=group.position_ids,
                past_key_values=_filled_cache(group.prefix),
                use_cache=True,
            )
        logits: Tensor = output.logits[0]
        return logits

    @torch.no_grad()
    def _group(self, texts: list[tuple[int, _Text]]) -> _Group:
        """Run texts once in full and keep what the steps need of it."""
        device = self.model.device
        suffix = texts[0][1].suffix_length
        prefix = max(text.start for _, text in texts)
        input_ids = torch.zeros(len(texts), prefix + suffix, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, (_, text) in enumerate(texts):
            input_ids[row, prefix - text.start :] = torch.tensor(text.ids)
            mask[row, prefix - text.start :] = 1
        input_ids, mask = input_ids.to(device), mask.to(device)
        position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
        hidden, cache, log_probs = self._full_pass(
            input_ids, mask, position_ids, prefix, texts[0][1]
        )
        edit = torch.tensor([edit for edit, _ in texts], device=device)
        for row, (place, text) in enumerate(texts):
            if text.bare:
                self.initial[place] = hidden[row, 0].float()
        return _Group(
            edit,
            input_ids[:, prefix:],
            mask,
            position_ids[:, prefix:],
            cache,
            hidden,
            _padded_targets([text.target_ids for _, text in texts]).to(device),
            log_probs,
        )

    def _full_pass(
        self, input_ids: Tensor, mask: Tensor, position_ids: Tensor, prefix: int, example: _Text
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor | None]:
        from transformers import DynamicCache

        cache = DynamicCache()
        rows = torch.arange(len(input_ids), device=input_ids.device)
        with ExitStack() as stack:
            outputs = stack.enter_context(
                hooks.seen_outputs({self.layer: self.model.layer(self.layer)})
            )
            stack.enter_context(
                hooks.gathered(self.model.head, rows, torch.full_like(rows, prefix))
            )
            logits = self.model.hf(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            ).logits[0]
        self._output_like = outputs[self.layer]
        hidden = hooks.hidden_states(self._output_like)[:, prefix:].clone()
        unchanged = None if example.target_ids else logits.float().log_softmax(dim=-1)
        return hidden, self._prefix_of(cache, prefix), unchanged

    def _prefix_of(self, cache: Any, prefix: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the prefix; of the layers below, only their length is ever asked."""
        kept = []
        for index, layer in enumerate(cache.layers):
            keys, values = layer.keys[:, :, :prefix], layer.values[:, :, :prefix]
            if index <= self.layer:
                keys, values = keys[:, :1, :, :1], values[:, :1, :, :1]
            dtype = self.stepper.dtype
            kept.append((keys.to(dtype, copy=True), values.to(dtype, copy=True)))
        return kept

    def _drop_finished(self, active: Tensor) -> None:
        kept = []
        for group in self.groups:
            rows = active[group.edit].nonzero().flatten()
            if len(rows) == len(group.edit):
                kept.append(group)
            elif len(rows) > 0:
                kept.append(group.select(rows))
        self.groups = kept


def _by_length(edits: Sequence[_Edit], max_tokens: int) -> Iterator[list[tuple[int, _Text]]]:
    """Groups of texts, each with its edit's place, of equal suffix length."""
    groups: dict[tuple[bool, int], list[tuple[int, _Text]]] = defaultdict(list)
    for place, edit in enumerate(edits):
        for text in edit.texts:
            groups[False, text.suffix_length].append((place, text))
        groups[True, 1].append((place, edit.unchanged))
    for (_, suffix), texts in groups.items():
        texts.sort(key=lambda item: item[1].start)
        size = max(1, max_tokens // suffix)
        for start in range(0, len(texts), size):
            yield texts[start : start + size]


def _padded_targets(targets: Sequence[tuple[int, ...]]) -> Tensor:
    """Token ids ``[b, t]``, aligned on the right, -100 where a target is shorter."""
    width = max(len(target) for target in targets)
    padded = torch.full((len(targets), width), -100, dtype=torch.long)
    for row, target in enumerate(targets):
        if target:
            padded[row, width - len(target) :] = torch.tensor(target)
    return padded


def _filled_cache(prefix: list[tuple[Tensor, Tensor]]) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for index, (keys, values) in enumerate(prefix):
        cache.update(keys, values, index)
    return cache
