"""Collecting second moments of the inputs of down-projections in one pass over a text.

The sums are of ``k k^T`` over all real tokens. Products are formed in float32 (float64 for a
float64 model) within a block of tokens, and blocks are added up in float64. A product ``X^T X`` is
symmetric, so only its upper triangle of column panels is computed.

**Sampling error.** Let block ``b`` have ``n_b`` of the ``N`` tokens, the sum ``S_b`` and the mean
``C_b = S_b / n_b``, so that ``C = sum_b n_b C_b / N``. If blocks are independent and the mean of
``n`` tokens has the squared error ``s^2 / n`` in the Frobenius norm, then

    E sum_b n_b |C_b - C|^2 = (m - 1) s^2        and        E |C - E C|^2 = s^2 / N

over ``m`` blocks, whatever their sizes. Hence the estimate

    SE^2 = (sum_b |S_b|^2 / n_b - N |C|^2) / ((m - 1) N)

which for equal blocks is the variance of the block means over ``m``. Tokens within a block may
depend on each other as they like; a text that lies in two blocks makes the estimate a little low.
Relative to ``|C|``, ``N`` independent tokens give about ``tr(C) / (|C| sqrt(N))``, which is
``sqrt(d_in / N)`` where no direction stands out: 14 % for 1,536 inputs and 80,000 tokens.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collabedit.covariance.corpus import Corpus, Plan, Report, SelfCorpus, Window, grouped
from collabedit.errors import CollabEditError, CovarianceError, InputError
from collabedit.files import (
    cache_directory,
    check_writable,
    load_tensors,
    save_tensors,
    sha256_of_json,
    utc_now,
)
from collabedit.messages import Covariance
from collabedit.models import LanguageModel
from collabedit.models.hooks import captured_inputs, stops_before
from collabedit.models.memory import pass_tokens
from collabedit.models.precision import quick_products
from collabedit.models.tokens import Batch, batches
from collabedit.progress import Progress, progress, say

__all__ = [
    "MAX_LENGTH",
    "TOKENS_PER_INPUT",
    "collect",
    "default_covariance",
    "default_tokens",
    "layers_at_once",
    "memory_needed",
]

logger = logging.getLogger(__name__)

#: Tokens of a window at most, unless the user says otherwise.
MAX_LENGTH = 512
#: Tokens of a forward pass.
_BATCH_TOKENS = 2048
#: Blocks that a collection is parted in for the sampling error, where they stay small enough.
_BLOCKS = 16
#: Tokens of a block at most: more would lose digits in float32.
_BLOCK_TOKENS = 16384
#: Column panels of a product: more save little and make slim, slow matrices.
_PANELS = 4
#: Rows of a matrix that are mirrored together.
_MIRROR_ROWS = 1024
#: Seconds between checkpoints at least, and how many times longer than writing one.
_CHECKPOINT_SECONDS = 20.0
_CHECKPOINT_RATIO = 10.0
#: Tokens for each input of the MLP at least, unless the user says otherwise.
TOKENS_PER_INPUT = 10
#: The time left is told once this share of the work is done.
_ESTIMATE_AFTER = 0.02

_PARTIAL_FORMAT = "collabedit.covariance-partial"
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
) -> Covariance:
    """Collect ``C = E[k k^T]`` of the inputs of the down-projections of some layers.

    One pass serves all layers, and ends in each forward pass where the last one's input is known.
    Within a memory budget that holds too few matrices there is a pass for some layers at a time,
    over the same tokens and with the same result.

    Args:
        model: the model.
        layers: which decoder layers.
        corpus: where the tokens come from.
        tokens: how many; :func:`default_tokens` when ``None``. A corpus may have fewer.
        max_length: tokens of a window at most, bounded by the model's context.
        batch_tokens: tokens of a forward pass, as many as are quick and fit by default; changes
            speed and memory, not the result.
        out: where to save the result. A checkpoint ``<out>.partial`` is kept beside it meanwhile,
            from which the same call continues.
        say: told what users should know: what is continued, and how long it will take.

    Raises:
        ModelError: when a layer does not exist.
        CovarianceError: when the corpus has no text or the model gives NaN.
        InputError: when ``out`` cannot be written.
    """
    names = model.weight_names(sorted(set(layers)))
    if not names:
        raise CovarianceError("no layer to collect second moments of was given")
    if out is not None:
        check_writable(out, 8 * len(names) * model.structure.mlp_size**2)
    plan = _plan(model, tokens or default_tokens(model, corpus), max_length)
    batch_tokens = batch_tokens or pass_tokens(model, _BATCH_TOKENS)
    at_once = layers_at_once(model, names)
    if at_once >= len(names):
        return _collect(model, names, corpus, plan, batch_tokens, out, say)
    source = _Remembered(corpus)
    groups = [names[start : start + at_once] for start in range(0, len(names), at_once)]
    parts = [
        _part(model, group, source, plan, batch_tokens, out, say, len(groups) - number)
        for number, group in enumerate(groups, 1)
    ]
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
    further_passes: int = 0,
) -> Covariance:
    """The second moments of some weights, all in one pass."""
    fingerprint = model.fingerprint(names)
    key = _key(fingerprint, corpus, plan)
    sums = _Sums.zeros(names, model.structure.mlp_size)
    partial = None if out is None else out.with_name(f"{out.name}.partial")
    if partial is not None:
        sums = _continued(partial, key, sums, say)
    with progress("Collecting second moments", plan.tokens, "tokens") as bar:
        for_user = _Estimate(bar, plan.tokens, sums.samples, say, further_passes)
        collector = _Collector(model, names, corpus, plan, batch_tokens, sums)
        collector.run(for_user, None if partial is None else _Checkpoint(partial, key))
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
    further_passes: int,
) -> tuple[Covariance, Path | None]:
    """Some of the weights of a collection, in a file beside ``out`` that tells by its name what of.

    What is in the file already is not collected again.
    """
    if out is None:
        return _collect(model, names, corpus, plan, batch_tokens, None, say, further_passes), None
    key = _key(model.fingerprint(names), corpus, plan)
    path = out.with_name(f"{out.name}.{key[:16]}")
    if not path.is_file():
        _collect(model, names, corpus, plan, batch_tokens, path, say, further_passes)
    return Covariance.load(path), path


def _joined(parts: Sequence[Covariance]) -> Covariance:
    """One covariance of the weights of several, which are of the same tokens."""
    return replace(
        parts[0],
        second_moments={n: part.second_moments[n] for part in parts for n in part.second_moments},
        model_sha256={name: d for part in parts for name, d in part.model_sha256.items()},
        sampling_error={name: e for part in parts for name, e in part.sampling_error.items()},
    )


class _Remembered:
    """A corpus whose chunks are kept once they are made, for further passes over them."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._chunks: dict[int, list[Window]] = {}

    @property
    def description(self) -> str:
        return self._corpus.description

    @property
    def generation_share(self) -> float:
        return self._corpus.generation_share

    @property
    def default_tokens(self) -> int:
        return self._corpus.default_tokens

    def identity(self) -> Mapping[str, Any]:
        return self._corpus.identity()

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Window]]:
        while start in self._chunks:
            chunk = self._chunks[start]
            report(sum(map(len, chunk)))
            yield chunk
            start += 1
        for number, fresh in enumerate(self._corpus.chunks(model, plan, start, report), start):
            self._chunks[number] = fresh
            yield fresh


def default_covariance(
    model: LanguageModel,
    layers: Sequence[int],
    seed: int = 0,
    *,
    tokens: int | None = None,
    say: Say = say,
) -> Covariance:
    """Second moments to use where the user gives none: of text that the model itself writes.

    They are kept in the cache, by all that they depend on.

    Args:
        model: the model, unedited.
        layers: which decoder layers.
        seed: of the samples.
        tokens: how many to sample; :func:`default_tokens` when ``None``.
        say: told that it takes a while, and what would be better.
    """
    corpus = SelfCorpus(seed)
    tokens = tokens or default_tokens(model, corpus)
    names = model.weight_names(sorted(set(layers)))
    key = _key(model.fingerprint(names), corpus, _plan(model, tokens, MAX_LENGTH))
    path = cache_directory("covariance") / f"{key[:32]}.safetensors"
    if path.is_file():
        try:
            return Covariance.load(path)
        except CollabEditError as error:
            logger.warning("%s; it is collected again", error)
    say(
        f"No covariance was given: collecting one over {tokens:,} tokens that {model.name} writes "
        "itself (only once). Text like that of its training is better: collabedit stats collect "
        "--corpus FILE"
    )
    try:
        return collect(model, layers, corpus, tokens=tokens, out=path, say=say)
    except InputError as error:  # the cache is read-only or full, which is no reason to give up
        say(f"{error}; the covariance will not be kept.")
        return collect(model, layers, corpus, tokens=tokens, say=say)


def default_tokens(model: LanguageModel, corpus: Corpus) -> int:
    """How many tokens to take unless told: the corpus's default, ten an input of the MLP at least.

    Second moments of fewer tokens than inputs are singular, and of few more badly conditioned.
    """
    return max(corpus.default_tokens, TOKENS_PER_INPUT * model.structure.mlp_size)


def memory_needed(model: LanguageModel, layers: Sequence[int]) -> int:
    """Bytes that the matrices take while collecting: float64 sums, and products of one block."""
    size = model.structure.mlp_size
    panels = (_PANELS + 1) / (2 * _PANELS)
    product = 8 if model.dtype == torch.float64 else 4
    return int(len(set(layers)) * size**2 * (8 + product * panels))


def layers_at_once(model: LanguageModel, layers: Sequence[Any]) -> int:
    """Of how many layers the matrices fit half the model's memory budget; one at least."""
    count = len(set(layers))
    if model.memory_budget is None:
        return count
    return max(1, min(count, int(model.memory_budget / 2 / memory_needed(model, [0]))))


def _plan(model: LanguageModel, tokens: int, max_length: int) -> Plan:
    context = getattr(model.hf.config.get_text_config(), "max_position_embeddings", max_length)
    block = max(1, min(tokens // _BLOCKS, _BLOCK_TOKENS))
    return Plan(tokens, min(max_length, context), block)


def _key(fingerprint: dict[str, str], corpus: Corpus, plan: Plan) -> str:
    """Hash of all that a collection depends on."""
    corpus_key = dict(corpus.identity())
    return sha256_of_json(
        [_PARTIAL_FORMAT, 1, fingerprint, corpus_key, plan.tokens, plan.max_length]
    )


@dataclass
class _Sums:
    """All that a collection has gathered so far.

    Attributes:
        totals: sum of ``k k^T`` by weight name; float64, only its upper triangle counts.
        squares: ``sum_b |S_b|^2 / n_b`` by weight name.
        samples: tokens.
        blocks: their number ``m``.
        chunks: chunks of the corpus that are finished.
    """

    totals: dict[str, Tensor]
    squares: dict[str, float]
    samples: int = 0
    blocks: int = 0
    chunks: int = 0

    @classmethod
    def zeros(cls, names: Sequence[str], size: int) -> _Sums:
        totals = {name: torch.zeros(size, size, dtype=torch.float64) for name in names}
        return cls(totals, dict.fromkeys(names, 0.0))

    def take_mean(self, name: str) -> Tensor:
        """``C``, exactly symmetric, in the place of the sum, which is gone."""
        mean = self.totals.pop(name).div_(self.samples)
        for start in range(0, len(mean), _MIRROR_ROWS):
            end = start + _MIRROR_ROWS
            inside = mean[start:end, start:end].triu()
            mean[start:end, start:end] = inside + inside.triu(1).T
            mean[end:, start:end] = mean[start:end, end:].T
        return mean

    def relative_error(self, mean: Tensor, name: str) -> float:
        """The standard error of ``C`` over its norm; see the module's docstring."""
        norm = float(mean.norm())
        spread = self.squares[name] - self.samples * norm**2
        variance = max(spread, 0.0) / ((self.blocks - 1) * self.samples)
        return math.sqrt(variance) / norm


class _BlockProduct:
    """``S_b = X^T X`` for the rows of one block, in column panels of its upper triangle."""

    def __init__(self, like: Tensor) -> None:
        size = like.shape[1]
        edges = [size * number // _PANELS for number in range(_PANELS + 1)]
        self._spans = list(pairwise(edges))
        self._dtype = torch.promote_types(like.dtype, torch.float32)
        self._panels = [
            torch.zeros(end - start, size - start, dtype=self._dtype, device=like.device)
            for start, end in self._spans
        ]

    def add(self, rows: Tensor) -> None:
        """Add ``X^T X`` of ``rows [n, d_in]``."""
        rows = rows.to(self._dtype)
        for (start, end), panel in zip(self._spans, self._panels, strict=True):
            panel.addmm_(rows[:, start:end].T, rows[:, start:])

    def move_to(self, total: Tensor) -> float:
        """Add the block to ``total``, begin a new one, and return ``|S_b|^2``."""
        squared = 0.0
        for (start, end), panel in zip(self._spans, self._panels, strict=True):
            inside = torch.linalg.vector_norm(panel[:, : end - start], dtype=torch.float64)
            right = torch.linalg.vector_norm(panel[:, end - start :], dtype=torch.float64)
            squared += float(inside) ** 2 + 2 * float(right) ** 2
            total[start:end, start:] += panel.to(total.device)
            panel.zero_()
        return squared


@dataclass
class _Collector:
    """Runs a corpus through the model."""

    model: LanguageModel
    names: Sequence[str]
    corpus: Corpus
    plan: Plan
    batch_tokens: int
    sums: _Sums
    _products: dict[str, _BlockProduct] = field(default_factory=dict)

    def run(self, bar: Progress, checkpoint: _Checkpoint | None) -> None:
        """Go on with the corpus until there are enough tokens."""
        share = self.corpus.generation_share

        def made(tokens: int) -> None:
            bar.advance(share * tokens)

        chunks = self.corpus.chunks(self.model, self.plan, self.sums.chunks, made)
        while self.sums.samples < self.plan.tokens:
            chunk = next(chunks, None)
            if chunk is None:
                return
            wanted = list(_first(chunk, self.plan.tokens - self.sums.samples))
            for block in grouped(wanted, self.plan.chunk_tokens):
                self._add_block(block, bar, 1 - share)
            self.sums.chunks += 1
            if checkpoint is not None:
                checkpoint.offer(self.sums)

    @quick_products()
    def _add_block(self, block: Sequence[Window], bar: Progress, share: float) -> None:
        for batch in batches(block, self.batch_tokens, self.model.device):
            for name, rows in self._inputs(batch).items():
                if name not in self._products:
                    self._products[name] = _BlockProduct(rows)
                self._products[name].add(rows)
            bar.advance(share * int(batch.lengths.sum()))
        samples = sum(len(window) for window in block)
        for name, product in self._products.items():
            self.sums.squares[name] += product.move_to(self.sums.totals[name]) / samples
        self.sums.samples += samples
        self.sums.blocks += 1

    @torch.inference_mode()
    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Inputs ``[n, d_in]`` of the down-projections at the real tokens of a batch."""
        modules = {name: self.model.module(name.rpartition(".")[0]) for name in self.names}
        real = batch.attention_mask.bool()
        padded = not bool(real.all())
        with captured_inputs(modules) as inputs, stops_before(modules[self.names[-1]]):
            self.model.hf(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask if padded else None,
                use_cache=False,
            )
        flat = {name: value.reshape(real.numel(), -1) for name, value in inputs.items()}
        if not padded:
            return flat
        chosen = real.flatten()
        return {name: value[chosen.to(value.device)] for name, value in flat.items()}


def _first(chunk: Sequence[Window], tokens: int) -> Iterator[Window]:
    """The first ``tokens`` tokens of a chunk; the last window is cut where they end."""
    for window in chunk:
        if tokens <= 0:
            return
        yield window[:tokens]
        tokens -= len(window)


class _Estimate(Progress):
    """Passes progress on, and says once how long the rest and the further passes will take."""

    def __init__(
        self, bar: Progress, total: float, done: float, say: Say, further_passes: int = 0
    ) -> None:
        self._bar, self._total, self._start, self._done, self._say = bar, total, done, done, say
        self._further = further_passes * total
        self._began = time.monotonic()
        self._said = False
        bar.advance(done)

    def advance(self, amount: float = 1) -> None:
        self._bar.advance(amount)
        self._done += amount
        worked = self._done - self._start
        if self._said or worked < _ESTIMATE_AFTER * self._total:
            return
        self._said = True
        seconds = (
            (time.monotonic() - self._began) / worked * (self._total - self._done + self._further)
        )
        if seconds >= 1:
            self._say(f"About {seconds:,.0f} seconds to go.")


class _Checkpoint:
    """Writes the sums so far now and then."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._due = time.monotonic() + _CHECKPOINT_SECONDS

    def offer(self, sums: _Sums) -> None:
        """Write a checkpoint if the last one is old enough."""
        began = time.monotonic()
        if began < self._due:
            return
        metadata = {
            "format": _PARTIAL_FORMAT,
            "key": self._key,
            "squares": sums.squares,
            "samples": sums.samples,
            "blocks": sums.blocks,
            "chunks": sums.chunks,
        }
        save_tensors(self._path, sums.totals, metadata)
        end = time.monotonic()
        self._due = end + max(_CHECKPOINT_SECONDS, _CHECKPOINT_RATIO * (end - began))


def _continued(path: Path, key: str, zeros: _Sums, say: Say) -> _Sums:
    """The sums in a checkpoint of the same collection, or ``zeros``."""
    if not path.exists():
        return zeros
    try:
        totals, metadata = load_tensors(path, "checkpoint")
    except CollabEditError as error:
        say(f"{error}; beginning anew.")
        return zeros
    if metadata.get("key") != key:
        say(f"{path} is of another collection; it will be replaced.")
        return zeros
    counts: dict[str, Any] = {name: metadata[name] for name in ("samples", "blocks", "chunks")}
    say(f"Continuing from {path}: {counts['samples']:,} tokens are done.")
    return _Sums(totals, metadata["squares"], **counts)


def _finished(
    sums: _Sums, corpus: Corpus, model: LanguageModel, fingerprint: dict[str, str]
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
    size = model.structure.mlp_size
    if sums.samples < size:
        logger.warning(
            "%d tokens cannot determine second moments of %d inputs, which come out singular; "
            "use more than %d, better ten times as many",
            sums.samples,
            size,
            size,
        )
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
