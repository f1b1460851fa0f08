"""Collecting the second moments of the inputs of down-projections in one pass over a text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from collabedit.covariance.checkpoint import Checkpoint, continued
from collabedit.covariance.collector import Collector, Here, Share
from collabedit.covariance.corpus import Corpus, Plan, Remembered
from collabedit.covariance.sizing import collection_key, default_tokens, layers_at_once, plan_of
from collabedit.covariance.sums import Sums
from collabedit.errors import CovarianceError
from collabedit.files import check_writable, utc_now
from collabedit.messages import Covariance
from collabedit.models import LanguageModel, ModelStructure
from collabedit.models.memory import pass_tokens
from collabedit.progress import Progress, progress, say

__all__ = ["MAX_LENGTH", "collect"]

logger = logging.getLogger(__name__)

#: Most tokens of a window, unless the user says otherwise.
MAX_LENGTH = 512
#: Tokens of a forward pass.
_BATCH_TOKENS = 2048

#: Most experts that a message names.
_SHOWN = 8

Say = Callable[[str], None]


def collect(
    model: LanguageModel,
    layers: Sequence[int],
    corpus: Corpus,
    *,
    tokens: int | None = None,
    max_length: int = MAX_LENGTH,
    batch_tokens: int | None = None,
    out: Path | None = None,
    say: Say = say,
    share: Share | None = None,
) -> Covariance:
    """Collect ``C = E[k k^T]`` of the inputs of the down-projections of some layers.

    One pass over the corpus serves all layers, and each forward pass ends once the last layer's
    input is known. If the memory budget holds too few matrices, some layers are collected at a
    time, over the same tokens and with the same result.

    Args:
        model: the model.
        layers: which decoder layers.
        corpus: the source of the tokens.
        tokens: how many; :func:`default_tokens` when ``None``. A corpus may have fewer.
        max_length: most tokens of a window, bounded by the model's context.
        batch_tokens: tokens of a forward pass, by default the fastest number that fits; it changes
            speed and memory, not the result.
        out: where to save the result. A checkpoint ``<out>.partial`` beside it lets the same call
            continue after an interruption.
        say: receives messages for the user, such as what is continued.
        share: who does the work, such as workers; this process by default.

    Raises:
        ModelError: when a layer does not exist.
        CovarianceError: when the corpus has no text or the model gives NaN.
        InputError: when ``out`` cannot be written.
    """
    names = model.weight_names(sorted(set(layers)))
    if not names:
        raise CovarianceError("no layer was given to collect second moments of")
    if out is not None:
        check_writable(out, 8 * len(names) * model.structure.moment_size)
    plan = plan_of(model, tokens or default_tokens(model, corpus), max_length)
    batch_tokens = batch_tokens or pass_tokens(model, _BATCH_TOKENS)
    share = share or Here()
    at_once = layers_at_once(model, names)
    groups = [names[start : start + at_once] for start in range(0, len(names), at_once)]
    with progress("Collecting second moments", len(groups) * plan.tokens, "tokens") as bar:
        if len(groups) == 1:
            return _collect(model, names, corpus, plan, batch_tokens, out, say, bar, share)
        source = Remembered(corpus)
        parts = [_part(model, g, source, plan, batch_tokens, out, say, bar, share) for g in groups]
    covariance = _joined([part for part, _ in parts])
    if out is None:
        return covariance
    covariance.save(out)
    for _, path in parts:
        if path is not None:
            path.unlink(missing_ok=True)
    return Covariance.load(out)


def _collect(
    model: LanguageModel,
    names: Sequence[str],
    corpus: Corpus,
    plan: Plan,
    batch_tokens: int,
    out: Path | None,
    say: Say,
    bar: Progress,
    share: Share,
) -> Covariance:
    """The second moments of some weights, all in one pass."""
    fingerprint = model.fingerprint(names)
    key = collection_key(fingerprint, corpus, plan)
    structure = model.structure
    sums = Sums.zeros(names, structure.mlp_size, structure.experts)
    partial = None if out is None else out.with_name(f"{out.name}.partial")
    if partial is not None:
        sums = continued(partial, key, sums, say)
    bar.skip(sums.samples)
    collector = Collector(model, names, corpus, plan, batch_tokens, sums, share)
    collector.run(bar, None if partial is None else Checkpoint(partial, key))
    del collector  # and the products of its last block
    if sums.samples < plan.tokens:
        say(f"The corpus has {sums.samples:,} tokens; {plan.tokens:,} were asked for.")
    covariance = _finished(sums, corpus, model, fingerprint)
    if out is not None and partial is not None:
        covariance.save(out)
        partial.unlink(missing_ok=True)
    return covariance


def _part(
    model: LanguageModel,
    names: Sequence[str],
    corpus: Corpus,
    plan: Plan,
    batch_tokens: int,
    out: Path | None,
    say: Say,
    bar: Progress,
    share: Share,
) -> tuple[Covariance, Path | None]:
    """Some of the weights of a collection, in a file beside ``out`` whose name identifies them.

    If the file exists, nothing is collected again.
    """
    if out is None:
        return _collect(model, names, corpus, plan, batch_tokens, None, say, bar, share), None
    key = collection_key(model.fingerprint(names), corpus, plan)
    path = out.with_name(f"{out.name}.{key[:16]}")
    if path.is_file():
        bar.skip(plan.tokens)
    else:
        _collect(model, names, corpus, plan, batch_tokens, path, say, bar, share)
    return Covariance.load(path), path


def _joined(parts: Sequence[Covariance]) -> Covariance:
    """One covariance of several covariances' weights, collected on the same tokens."""
    return replace(
        parts[0],
        second_moments={n: part.second_moments[n] for part in parts for n in part.second_moments},
        model_sha256={name: d for part in parts for name, d in part.model_sha256.items()},
        sampling_error={name: e for part in parts for name, e in part.sampling_error.items()},
    )


def _finished(
    sums: Sums, corpus: Corpus, model: LanguageModel, fingerprint: dict[str, str]
) -> Covariance:
    if sums.samples == 0:
        raise CovarianceError(f"there is no text in the corpus {corpus.description}")
    moments = {name: sums.take_mean(name) for name in list(sums.totals)}
    for name, moment in moments.items():
        if not torch.isfinite(moment).all():
            raise CovarianceError(
                f"{model.name} has NaN or infinite inputs to {name} in {model.dtype}; "
                "load it with --dtype float32 or bfloat16"
            )
    _warn_of_few(sums.samples, moments, model.structure)
    errors = {}
    if sums.blocks > 1:
        errors = {name: sums.relative_error(moment, name) for name, moment in moments.items()}
    return Covariance(
        second_moments=moments,
        samples=sums.samples,
        corpus=corpus.description,
        model=model.name,
        model_sha256=fingerprint,
        sampling_error=errors,
        created=utc_now(),
    )


def _warn_of_few(samples: int, moments: Mapping[str, Tensor], structure: ModelStructure) -> None:
    """Warn if the tokens cannot determine the second moments."""
    size = structure.mlp_size
    seen = samples * structure.active_size // size  # by an expert that gets its share of them
    width = size // structure.blocks
    if seen < width:
        logger.warning(
            "%d tokens cannot determine second moments of %d inputs, which will be singular; "
            "use more than %d, better ten times as many",
            samples,
            size,
            samples * width // max(seen, 1),
        )
    for name, moment in moments.items():
        idle = [] if moment.ndim == 2 else [e for e, part in enumerate(moment) if not part.any()]
        if idle:
            logger.warning(
                "%s: no token was routed to %d of %d experts (%s), which edits will leave as they "
                "are; use more tokens, or other text",
                name,
                len(idle),
                len(moment),
                _listed(idle),
            )


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return shown + (", ..." if len(numbers) > _SHOWN else "")
