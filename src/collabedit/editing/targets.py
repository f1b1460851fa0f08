"""Targets: the hidden state at the last edited layer that makes the model say the new object.

Published code optimises one edit at a time and runs the whole model at every step. Here ``delta``
enters at one layer and one position, so

- hidden states up to that layer are computed once;
- keys and values of the tokens before the subject's last are computed once, in all layers;
- only the tokens from there on run at every step, through the layers above, and the head runs only
  where a target token is predicted;
- the layers compute in bfloat16 where the processor is fast at it, while the head, the loss,
  ``delta`` and the hidden state that it is added to stay in float32;
- the texts of many edits run together, in few large passes with little padding, and an edit that
  has converged leaves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from collabedit.editing.keys import measure
from collabedit.editing.passes import quickest_passes
from collabedit.editing.target_batches import (
    batches_of,
    can_be_quick,
    edits_at_once,
    identity,
    tokens_at_once,
    units_of,
)
from collabedit.editing.target_solver import TargetSolver
from collabedit.editing.target_texts import Beginnings, fact_texts, kept_texts
from collabedit.editing.text_groups import Passes
from collabedit.editing.texts import check_requests
from collabedit.editors import (
    Contexts,
    Hyperparameters,
    bare_contexts,
    context_weights,
    target_weights,
)
from collabedit.errors import InputError
from collabedit.files import cache_directory, cache_tensors, load_tensors, sha256_of_json
from collabedit.models.language_model import LanguageModel
from collabedit.models.placement import device_of
from collabedit.models.precision import quick_products
from collabedit.progress import progress
from collabedit.requests import EditRequest

__all__ = ["Solve", "TargetCache", "optimise_targets"]

#: Length, relative to the hidden state, of the change used to test the shorter way.
_TRIED_CHANGE = 0.5

#: The settings that a target depends on, besides the last layer.
_SETTINGS = {
    "target_steps",
    "target_learning_rate",
    "target_momentum",
    "target_weight_decay",
    "kl_factor",
    "clamp_factor",
    "loss_threshold",
    "target_stop",
    "target_search",
}


#: Yields the targets ``[d_out, edits]`` of one batch after another, given the model, the batches,
#: the contexts, the settings, whether a quick copy is used, and the tokens of a pass.
Solve: TypeAlias = Callable[
    [LanguageModel, Sequence[Sequence[EditRequest]], Contexts, Hyperparameters, bool, int],
    Iterator[Tensor],
]


class TargetCache:
    """Targets on disk: a batch per file, named by a digest of everything that they depend on.

    That is all current weights of the model, the contexts, the settings and the requests of the
    batch, since how a target is rounded depends on its neighbours. So a cached target is exactly
    what would be computed, whoever filled the cache. The cache is in a folder that only this user
    can read, and holds vectors but no text.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_directory("targets")

    def path(self, key: str) -> Path:
        """The file of a batch's targets."""
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
    owners: Sequence[int] | None = None,
) -> Tensor:
    """Find the target of every request on the model in its current state.

    Minimises, over ``delta`` added to the last edited layer's output at the subject's last token,
    the mean over contexts of the new object's negative log-likelihood per token, plus
    ``kl_factor * KL(p || p_0)`` of the next token after the subject in "{subject} is a", plus
    ``weight_decay * |delta| / |h|^2``, within ``|delta| <= clamp_factor * |h|`` (MEMIT, section 4.2
    and ``compute_z``), by Adam or L-BFGS. If the contexts include texts that preserve what is said
    about a subject, their divergences, summed over positions, are added with the same factor.

    A party's edits that are alike up to the subject's end have the same keys, so different changes
    would destroy each other: they share one ``delta``, for the mean of their losses (MEMIT-Merge,
    Dong et al., 2025). Other edits of the subject have keys, and changes, of their own.

    Args:
        model: the model.
        requests: ``n`` edits.
        contexts: template groups; all templates of facts count equally here.
        settings: steps, rates and factors, and the layers, of which the last counts.
        cache: where finished targets are looked up and stored.
        quick: run the steps on a quick copy (:meth:`LanguageModel.quick_copy`).
        max_edits: edits optimised together.
        max_tokens: tokens in one forward and backward pass. By default, both are the fastest
            numbers that fit the model's memory budget.
        solve: computes the targets of batches elsewhere, such as on workers; here by default.
        owners: the number of each edit's party, ``n`` of them; one party by default.

    Returns:
        ``Z [d_out, n]``, float32, on the CPU.

    Raises:
        RequestError: when a text is too long for the model, or has a token that it does not know.
    """
    check_requests(model, requests, contexts)
    quick = quick and can_be_quick(model)
    above = model.structure.n_layers - settings.layers[-1] - 1
    max_tokens = max_tokens or tokens_at_once(model, quick, above)
    max_edits = max_edits or edits_at_once(model, quick, contexts, above)
    targets = torch.zeros(model.structure.hidden_size, len(requests))
    batches = batches_of(model, requests, units_of(requests, owners), max_edits)
    keys = [""] * len(batches)
    if cache:
        common = _common_key(model, contexts, settings, quick, max_tokens)
        edits = [[identity(requests[same[0]]) for same in batch] for batch in batches]
        keys = [sha256_of_json([common, batch_edits]) for batch_edits in edits]
    pending = []
    for batch, key in zip(batches, keys, strict=True):
        stored = cache.load(key) if cache else None
        if stored is None:
            pending.append((batch, key))
        else:
            _put(targets, batch, stored)
    missing = [[requests[same[0]] for same in batch] for batch, _ in pending]
    solved = (solve or _solved)(model, missing, contexts, settings, quick, max_tokens)
    for (batch, key), solution in zip(pending, solved, strict=True):
        _put(targets, batch, solution)
        if cache:
            cache.store(key, solution)
    return targets


def _put(targets: Tensor, batch: Sequence[Sequence[int]], solution: Tensor) -> None:
    for column, same in enumerate(batch):
        targets[:, same] = solution[:, column, None]


def _solved(
    model: LanguageModel,
    batches: Sequence[Sequence[EditRequest]],
    contexts: Contexts,
    settings: Hyperparameters,
    quick: bool,
    max_tokens: int,
) -> Iterator[Tensor]:
    """Yield the targets ``[d_out, edits]`` of one batch after another."""
    if not batches:
        return
    layer = settings.layers[-1]
    initial = [measure(model, batch, bare_contexts(), (), layer).hidden for batch in batches]
    passes = _passes(model, quick, layer, batches[0], contexts, initial[0], max_tokens)
    weighted = target_weights(contexts)
    with progress("Optimising targets", sum(map(len, batches)), "edits") as bar:
        for batch, states in zip(batches, initial, strict=True):
            beginnings = Beginnings(batch)
            texts = [fact_texts(model.tokenizer, *template, beginnings) for template in weighted]
            kept = kept_texts(model.tokenizer, contexts, beginnings)
            hidden = states.T.float().to(device_of(model.layer(layer)))
            start = beginnings.mean(hidden)
            with quick_products(rounded=True) if quick else nullcontext():
                solver = TargetSolver(passes, texts, kept, start, settings, max_tokens)
                change = solver.run(bar, beginnings.sizes)
            yield (hidden + change[beginnings.of_edit]).T.cpu()


def _passes(
    model: LanguageModel,
    quick: bool,
    layer: int,
    batch: Sequence[EditRequest],
    contexts: Contexts,
    hidden: Tensor,
    max_tokens: int,
) -> Passes[Any]:
    """How to run texts, tested on those of a batch's first edit, which differ in length."""
    first = Beginnings(batch[:1])
    longest = max((template for template, _ in context_weights(contexts)), key=len)
    texts = fact_texts(model.tokenizer, longest, 1.0, first)
    texts += [text for texts in kept_texts(model.tokenizer, contexts, first) for text in texts]
    sizes = _TRIED_CHANGE * hidden[:, :1].float().norm(dim=0)
    sizes = sizes.to(device_of(model.layer(layer)))
    copy = model.quick_copy() if quick else model
    return quickest_passes(model, copy, layer, texts, sizes, max_tokens)


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
            "version": 9,
            "quick": quick,
            "max_tokens": max_tokens,
            "state": model.state_fingerprint(),
            "contexts": contexts,
            "layer": settings.layers[-1],
            "settings": settings.model_dump(mode="json", include=_SETTINGS),
        }
    )
