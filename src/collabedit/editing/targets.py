"""Targets: the hidden state at the last edited layer that makes the model say the new object.

The usual code optimises one edit at a time and runs the whole model in each step. Here ``delta``
enters at one layer and one position, so

- hidden states up to that layer are computed once;
- keys and values of the tokens before the subject's last are computed once, in all layers;
- only the tokens from there on run in each step, through the layers above, and the head runs only
  where a target token is predicted;
- the layers compute in bfloat16 where the processor is quick at it, while the head, the loss,
  ``delta`` and the hidden state that it is added to stay in float32;
- the texts of many edits run together, in few large passes with little padding, and an edit that
  has converged leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from collabedit.editing.keys import measure
from collabedit.editing.passes import quickest_passes
from collabedit.editing.target_solver import TargetSolver
from collabedit.editing.text_groups import Passes, Text
from collabedit.editing.texts import check_requests, kept_texts_of, texts_in
from collabedit.editors import (
    Contexts,
    Hyperparameters,
    bare_contexts,
    context_weights,
    kept_templates,
)
from collabedit.errors import InputError
from collabedit.files import cache_directory, cache_tensors, load_tensors, sha256_of_json
from collabedit.models.language_model import LanguageModel
from collabedit.models.memory import head_bytes, pass_tokens, texts_at_once
from collabedit.models.placement import device_of
from collabedit.models.precision import quick_products
from collabedit.models.tokens import EncodedText, encode_edits, fill_template
from collabedit.progress import progress
from collabedit.requests import EditRequest, question_prompt

__all__ = ["Solve", "TargetCache", "optimise_targets"]

#: Edits optimised together, and tokens of their texts in one forward and backward pass.
MAX_EDITS = 64
MAX_TOKENS = 512

#: Share of a pass's tokens that predict a target's token, and tokens before the subject's last, in
#: texts as they are; what memory is estimated with.
_READ_SHARE = 0.5
_PREFIX_TOKENS = 24

#: Length, relative to the hidden state, of the change that the shorter way is tried with.
_TRIED_CHANGE = 0.5

#: What a target depends on of the settings, besides the last layer.
_SETTINGS = {
    "target_steps",
    "target_learning_rate",
    "target_weight_decay",
    "kl_factor",
    "clamp_factor",
    "loss_threshold",
}


#: Gives the targets ``[d_out, edits]`` of one batch after the other, from the model, the batches,
#: the contexts, the settings, whether a quick copy is used, and the tokens of a pass.
Solve: TypeAlias = Callable[
    [LanguageModel, Sequence[Sequence[EditRequest]], Contexts, Hyperparameters, bool, int],
    Iterator[Tensor],
]


class TargetCache:
    """Targets on disk, those of a batch in one file under a digest of all that they depend on.

    That is: all weights of the model as they are, the contexts, the settings and the requests of
    the batch, since the last bits of a target depend on its neighbours. What is found in the cache
    is therefore what would be computed, whoever filled it. The cache lies in a folder that only
    this user can read; it holds vectors and no text.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_directory("targets")

    def path(self, key: str) -> Path:
        """Where the targets of a batch lie."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def load(self, key: str) -> Tensor | None:
        """The stored targets ``[d_out, n]``, or ``None``."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            return load_tensors(path, "cached targets")[0]["targets"]
        except (InputError, KeyError):
            return None

    def store(self, key: str, targets: Tensor) -> None:
        """Keep a batch's targets ``[d_out, n]``."""
        cache_tensors(self.path(key), {"targets": targets}, {})


def optimise_targets(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
    *,
    cache: TargetCache | None = None,
    quick: bool = True,
    max_edits: int | None = None,
    max_tokens: int | None = None,
    solve: Solve | None = None,
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
        quick: run the steps on a quick copy (:meth:`LanguageModel.quick_copy`).
        max_edits: edits optimised together.
        max_tokens: tokens in one forward and backward pass. Of both, as many as are quick and fit
            the model's memory budget by default.
        solve: finds the targets of batches elsewhere, such as on workers; here by default.

    Returns:
        ``Z [d_out, n]``, float32, on the CPU.

    Raises:
        RequestError: when a text is too long for the model, or has a token that it does not know.
    """
    check_requests(model, requests, contexts)
    quick = quick and _can_be_quick(model)
    above = model.structure.n_layers - settings.layers[-1] - 1
    max_tokens = max_tokens or _tokens_at_once(model, quick, above)
    max_edits = max_edits or _edits_at_once(model, quick, contexts, above)
    edits = [_identity(request) for request in requests]
    places = {edit: place for place, edit in enumerate(edits)}  # those repeated are found once
    targets = torch.zeros(model.structure.hidden_size, len(requests))
    batches = _batches(model, requests, places.values(), max_edits)
    keys = [""] * len(batches)
    if cache:
        common = _common_key(model, contexts, settings, quick, max_tokens)
        keys = [sha256_of_json([common, [edits[i] for i in batch]]) for batch in batches]
    pending = []
    for batch, key in zip(batches, keys, strict=True):
        stored = cache.load(key) if cache else None
        if stored is None:
            pending.append((batch, key))
        else:
            targets[:, batch] = stored
    missing = [[requests[i] for i in batch] for batch, _ in pending]
    solved = (solve or _solved)(model, missing, contexts, settings, quick, max_tokens)
    for (batch, key), found in zip(pending, solved, strict=True):
        targets[:, batch] = found
        if cache:
            cache.store(key, found)
    return targets[:, [places[edit] for edit in edits]]


def _identity(request: EditRequest) -> tuple[str, ...]:
    """All that the texts of an edit depend on."""
    asked = question_prompt(request)
    return (request.prompt, request.subject, request.target_new, asked, *request.prompts)


def _can_be_quick(model: LanguageModel) -> bool:
    """Whether a quick copy is faster, and leaves half the memory budget."""
    if not model.can_be_quick:
        return False
    return model.memory_budget is None or 2 * _fixed_bytes(model, True) <= model.memory_budget


def _fixed_bytes(model: LanguageModel, quick: bool) -> int:
    """What is taken however few the texts: a quick copy, and the head as products order it."""
    return head_bytes(model) + (model.quick_copy_bytes if quick else 0)


def _tokens_at_once(model: LanguageModel, quick: bool, layers: int) -> int:
    """Tokens of one pass; what is not fixed of the budget is halved between it and the texts."""
    fixed = _fixed_bytes(model, quick)
    reserved = fixed + max(0, (model.memory_budget or 0) - fixed) / 2
    return pass_tokens(
        model, MAX_TOKENS, read_share=_READ_SHARE, kept_layers=layers, reserved=reserved
    )


def _edits_at_once(model: LanguageModel, quick: bool, contexts: Contexts, layers: int) -> int:
    templates = [template for template, _ in context_weights(contexts)]
    templates += kept_templates(contexts)
    texts = 1 + len(templates)
    longest = len(model.tokenizer(max(templates, key=len)).input_ids)
    length = max(_PREFIX_TOKENS, longest)
    most, reserved = MAX_EDITS * texts, _fixed_bytes(model, quick)
    return max(1, texts_at_once(model, most, length, layers, reserved=reserved) // texts)


def _batches(
    model: LanguageModel, requests: Sequence[EditRequest], places: Iterable[int], max_edits: int
) -> list[list[int]]:
    """The places of the requests that are optimised together, those with texts of like length."""
    filled = [fill_template("{}", r.prompt, r.subject, r.target_new) for r in requests]
    lengths = [len(text.ids) - text.subject_last for text in encode_edits(model.tokenizer, filled)]
    order = sorted(places, key=lengths.__getitem__)
    return [order[start : start + max_edits] for start in range(0, len(order), max_edits)]


def _solved(
    model: LanguageModel,
    batches: Sequence[Sequence[EditRequest]],
    contexts: Contexts,
    settings: Hyperparameters,
    quick: bool,
    max_tokens: int,
) -> Iterator[Tensor]:
    """The targets ``[d_out, edits]`` of one batch after the other."""
    if not batches:
        return
    layer = settings.layers[-1]
    initial = [measure(model, batch, bare_contexts(), (), layer).hidden for batch in batches]
    passes = _passes(model, quick, layer, batches[0], contexts, initial[0], max_tokens)
    templates = [template for template, _ in context_weights(contexts)]
    weight = 1 / len(templates)
    with progress("Optimising targets", sum(map(len, batches)), "edits") as bar:
        for batch, hidden in zip(batches, initial, strict=True):
            texts = [_texts(model.tokenizer, template, weight, batch) for template in templates]
            kept = _kept_texts(model.tokenizer, contexts, batch)
            start = hidden.T.float().to(device_of(model.layer(layer)))
            with quick_products(rounded=True) if quick else nullcontext():
                solver = TargetSolver(passes, texts, kept, start, settings, max_tokens)
                found = solver.run(bar)
            yield found.T.cpu()


def _passes(
    model: LanguageModel,
    quick: bool,
    layer: int,
    batch: Sequence[EditRequest],
    contexts: Contexts,
    hidden: Tensor,
    max_tokens: int,
) -> Passes[Any]:
    """How to run texts, tried on two of unlike length, those of a batch's first edit."""
    first = batch[:1]
    longest = max((template for template, _ in context_weights(contexts)), key=len)
    texts = _texts(model.tokenizer, longest, 1.0, first)
    texts += [text for texts in _kept_texts(model.tokenizer, contexts, first) for text in texts]
    sizes = _TRIED_CHANGE * hidden[:, :1].float().norm(dim=0)
    sizes = sizes.to(device_of(model.layer(layer)))
    copy = model.quick_copy() if quick else model
    return quickest_passes(model, copy, layer, texts, sizes, max_tokens)


def _texts(
    tokenizer: Any, template: str, weight: float, requests: Sequence[EditRequest]
) -> list[Text]:
    """The edits' texts in one context, up to the last token that predicts."""
    found = []
    for edit, request in enumerate(requests):
        own = encode_edits(tokenizer, texts_in(template, request))
        found += [_text(edit, text, weight / len(own)) for text in own]
    return found


def _text(edit: int, text: EncodedText, weight: float) -> Text:
    again = (text.again,) if text.again >= 0 else ()
    return Text(edit, text.ids[:-1], text.subject_last, text.target_ids, again, weight=weight)


def _kept_texts(
    tokenizer: Any, contexts: Contexts, requests: Sequence[EditRequest]
) -> list[list[Text]]:
    """By context, the texts in which something must not change: MEMIT's up to the subject."""
    by_edit = [encode_edits(tokenizer, kept_texts_of(r, contexts)) for r in requests]
    essence, *others = zip(*by_edit, strict=True)
    first = [
        Text(edit, text.ids[: text.subject_last + 1], text.subject_last)
        for edit, text in enumerate(essence)
    ]
    return [first, *([_kept(edit, t) for edit, t in enumerate(texts)] for texts in others)]


def _kept(edit: int, text: EncodedText) -> Text:
    """What leads to the target, the target itself, and what comes after it must not change."""
    keeps = len(text.target_ids) + 1
    return Text(edit, text.ids, text.subject_last, again=(text.again,), keeps=keeps)


def _common_key(
    model: LanguageModel,
    contexts: Contexts,
    settings: Hyperparameters,
    quick: bool,
    max_tokens: int,
) -> str:
    """Digest of what the targets of all batches depend on."""
    return sha256_of_json(
        {
            "version": 6,
            "quick": quick,
            "max_tokens": max_tokens,
            "state": model.state_fingerprint(),
            "contexts": contexts,
            "layer": settings.layers[-1],
            "settings": settings.model_dump(mode="json", include=_SETTINGS),
        }
    )
