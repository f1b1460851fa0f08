"""Greedy decoding after many prompts: batched, with shared prefixes computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakSet

import torch
from torch import Tensor, nn

from collabedit.evaluation.forest import attention_window
from collabedit.models import LanguageModel
from collabedit.models.hooks import gathered
from collabedit.models.key_values import cache_of, given_cache
from collabedit.models.lengths import context_length
from collabedit.models.memory import texts_at_once
from collabedit.progress import progress

__all__ = ["Batch", "Continuation", "Decode", "continue_greedily", "decode_here", "end_tokens"]

#: Rows that share at least this many first tokens are batched together, and their shared prefix is
#: computed once.
_LEAST_SHARED = 8
#: Fewer rows than this are batched with others, whatever they share: a step takes a small batch
#: nearly as long as a large one, since either reads all weights.
_LEAST_ROWS = 8
#: Maximum rows of a batch, on a CPU and on a GPU.
_ROWS, _ROWS_ON_GPU = 128, 512
#: Minimum rows of a pass over prompts, and roughly the maximum passes per batch: rows of a pass are
#: padded to one length, but each pass reads all weights.
_ROWS_A_PASS, _PASSES = 16, 8
#: Finished rows are dropped from a batch once they are this share of it.
_ENDED_SHARE = 0.25

#: Models that a trial has shown to be unaffected by padding, which no edit changes.
_UNAFFECTED: WeakSet[nn.Module] = WeakSet()

Row = tuple[int, ...]
#: Given a row's new tokens, whether to end it. Must be importable if workers are to call it.
Stop = Callable[[LanguageModel, Sequence[int]], bool]


@dataclass(frozen=True)
class Batch:
    """Rows to continue together, shortest first; its length is the number of rows.

    Attributes:
        rows: each row's token ids.
        max_tokens: maximum new tokens per row.
        ends: the tokens with which the model ends a text.
        stop: whether to end a row early; ``None`` if never.
    """

    rows: tuple[Row, ...]
    max_tokens: int
    ends: frozenset[int]
    stop: Stop | None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Continuation:
    """The continuation of one row.

    Attributes:
        tokens: the new tokens, without the end token.
        ended: whether the model ended it, rather than the limit or the stop function.
    """

    tokens: tuple[int, ...]
    ended: bool


#: Yields each batch's continuations, in the order of the batches and their rows.
Decode: TypeAlias = Callable[[LanguageModel, Sequence[Batch]], Iterator[list[Continuation]]]


def end_tokens(model: LanguageModel) -> frozenset[int]:
    """The tokens with which the model ends a text or a turn."""
    configured = getattr(model.hf.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(
        token for token in [*listed, model.tokenizer.eos_token_id] if token is not None
    )


@torch.no_grad()
def continue_greedily(
    model: LanguageModel,
    rows: Sequence[Row],
    *,
    max_tokens: int = 20,
    stops: Sequence[Stop | None] | None = None,
    decode: Decode | None = None,
) -> list[Continuation]:
    """Continue each row with its most likely tokens.

    Equal rows with the same stop function are continued once. A batch's shared prefix is computed
    once, and the rest of each row is padded on the left, provided that a trial shows the model's
    results to be unaffected. Other models get batches of rows of equal length.

    Args:
        model: the model, edited or not.
        rows: token ids, each with at least one.
        max_tokens: maximum new tokens per row; fewer if they would exceed the model's context.
        stops: for each row, a function that ends it early, called with the model and the row's new
            tokens after each of them, or ``None``. By default, no row ends early.
        decode: continues the batches, for instance on workers; by default, this process does.

    Returns:
        One continuation per row, in the order of the rows.
    """
    asked = list(zip(rows, stops or [None] * len(rows), strict=True))
    by_stop: dict[Stop | None, set[Row]] = {}
    for row, stop in asked:
        by_stop.setdefault(stop, set()).add(row)
    ends = end_tokens(model)
    batches = [
        Batch(tuple(batch), max_tokens, ends, stop)
        for stop, own in by_stop.items()
        for batch in _batches(model, sorted(own), max_tokens)
    ]
    batches.sort(key=_cost, reverse=True)  # so that workers finish together
    found: dict[tuple[Row, Stop | None], Continuation] = {}
    with progress("Generating", sum(map(len, batches)), "texts") as bar:
        written = (decode or decode_here)(model, batches)
        for one, continuations in zip(batches, written, strict=True):
            found.update(zip(((row, one.stop) for row in one.rows), continuations, strict=True))
            bar.advance(len(one))
    return [found[each] for each in asked]


def decode_here(model: LanguageModel, batches: Sequence[Batch]) -> Iterator[list[Continuation]]:
    """Continue batches one by one in this process."""
    return (_decode(model, batch) for batch in batches)


@torch.no_grad()
def _decode(model: LanguageModel, batch: Batch) -> list[Continuation]:
    return _Decoder(model, batch).run()


def _cost(batch: Batch) -> int:
    """Tokens of a batch, padding and new tokens included."""
    return len(batch) * (len(batch.rows[-1]) + batch.max_tokens)


def _batches(model: LanguageModel, rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Batches of sorted rows, which share a long prefix or have none in common."""
    limit = context_length(model)
    full = [row for row in rows if limit is not None and len(row) + max_tokens > limit]
    yield from ([row] for row in full)  # in a batch, they would limit the others' new tokens
    rows = sorted(set(rows) - set(full))
    if not rows:
        return
    longest = max(map(len, rows)) + max_tokens
    most = texts_at_once(
        model,
        _ROWS_ON_GPU if model.device.type == "cuda" else _ROWS,
        longest,
        model.structure.n_layers,
    )
    groups = _alike(rows) if _can_pad(model, longest) else _of_one_length(rows)
    for group in groups:
        group.sort(key=len)
        for start in range(0, len(group), most):
            yield group[start : start + most]


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups of rows with a shared prefix, and one group of all other rows."""
    by_beginning: dict[Row, list[Row]] = {}
    for row in rows:
        by_beginning.setdefault(row[:_LEAST_SHARED], []).append(row)
    groups, others = [], []
    for beginning, members in by_beginning.items():
        if len(members) >= _LEAST_ROWS and len(beginning) == _LEAST_SHARED:
            groups.append(members)
        else:
            others += members
    return [*groups, others] if others else groups


def _of_one_length(rows: Sequence[Row]) -> list[list[Row]]:
    by_length: dict[int, list[Row]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    return list(by_length.values())


class _Decoder:
    """A batch of rows and what has been written after each."""

    def __init__(self, model: LanguageModel, batch: Batch) -> None:
        self._model, self._batch = model, batch
        self._new: list[list[int]] = [[] for _ in batch.rows]
        self._ended = [False] * len(batch)
        self._alive = list(range(len(batch)))

    def run(self) -> list[Continuation]:
        limit = context_length(self._model)
        longest = max(map(len, self._batch.rows))
        steps = self._batch.max_tokens
        steps = steps if limit is None else max(0, min(steps, limit - longest))
        reader = _read(self._model, self._batch.rows)
        for step in range(steps):
            chosen = reader.logits.argmax(dim=-1).tolist()
            going = self._take(chosen)
            if not going or step == steps - 1:
                break
            if len(going) <= (1 - _ENDED_SHARE) * len(chosen):
                reader.keep(going)
                self._alive = [self._alive[index] for index in going]
                chosen = [chosen[index] for index in going]
            reader.feed(chosen)
        return [Continuation(tuple(new), e) for new, e in zip(self._new, self._ended, strict=True)]

    def _take(self, chosen: Sequence[int]) -> list[int]:
        """Record a token for each active row; returns the indices of those that continue."""
        going = []
        for index, token in enumerate(chosen):
            row = self._alive[index]
            new = self._new[row]
            if self._ended[row] or (new and self._stopped(new)):
                continue
            if token in self._batch.ends:
                self._ended[row] = True
                continue
            new.append(token)
            if not self._stopped(new):
                going.append(index)
        return going

    def _stopped(self, new: Sequence[int]) -> bool:
        stop = self._batch.stop
        return stop is not None and stop(self._model, new)


class _Reader:
    """Keys and values of a batch of rows, and the logits after their last tokens.

    Attributes:
        logits: ``[rows, vocabulary]``.
    """

    def __init__(self, model: LanguageModel, rows: Sequence[Row]) -> None:
        self._model, device = model, model.device
        self._cache: Any = None
        self._fed: Tensor | None = None  # for models without a cache of keys and values
        lengths = torch.tensor([len(row) for row in rows], device=device)
        width = max(map(len, rows))
        gaps = (width - lengths)[:, None]  # each row's padding
        shared = _shared(rows)
        if shared:
            self._cache = _read_shared(model, rows[0][:shared], len(rows))
        if self._cache is None:
            shared = 0
        padded = [[0] * (width - len(row)) + list(row[shared:]) for row in rows]
        index = torch.arange(width, device=device)[None]
        self._mask = ((index < shared) | (index >= shared + gaps)).long()
        self._padded = bool(gaps.any())
        self._next = lengths
        positions = (index[:, shared:] - gaps).clamp(min=0)
        self.logits = self._pass(torch.tensor(padded, device=device), positions)

    def join(self, shorter: Sequence[_Reader]) -> None:
        """Prepend the rows of other readers, none of them longer, padded on the left."""
        readers = [*shorter, self]
        width = self._mask.shape[1]
        for layers in zip(*(reader._cache.layers for reader in readers), strict=True):
            keys = torch.cat([_widened(layer.keys, width, -2) for layer in layers])
            values = torch.cat([_widened(layer.values, width, -2) for layer in layers])
            layers[-1].keys, layers[-1].values = keys, values
        self._mask = torch.cat([_widened(reader._mask, width, -1) for reader in readers])
        self._next = torch.cat([reader._next for reader in readers])
        self.logits = torch.cat([reader.logits for reader in readers])
        self._padded = True

    def feed(self, tokens: Sequence[int]) -> None:
        """Feed one more token per row."""
        new = torch.tensor(tokens, device=self._model.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(new)], dim=1)
        self.logits = self._pass(new, self._next[:, None])
        self._next = self._next + 1

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, given by index."""
        index = torch.tensor(rows, device=self._model.device)
        self._mask, self._next = self._mask[index], self._next[index]
        if self._fed is not None:
            self._fed = self._fed[index]
        if self._cache is not None:
            self._cache.batch_select_indices(index)

    def _pass(self, ids: Tensor, positions: Tensor) -> Tensor:
        count = len(ids)
        if self._fed is not None:
            ids = self._fed = torch.cat([self._fed, ids], dim=1)
        inputs = given_cache(self._model.hf, self._cache)
        if self._padded:
            inputs |= {"attention_mask": self._mask, "position_ids": positions}
        with gathered(self._model.head, torch.arange(count), torch.full((count,), -1)):
            output = self._model.hf(input_ids=ids, use_cache=True, **inputs)
        self._cache = cache_of(output)
        if self._cache is None:
            self._fed = ids
        logits: Tensor = output.logits[0].float()
        return logits


def _read(model: LanguageModel, rows: Sequence[Row]) -> _Reader:
    """Read rows, shortest first, in passes of rows of similar length, so that little is padded."""
    least = max(_ROWS_A_PASS, len(rows) // _PASSES)
    passes: list[list[Row]] = [[]]
    for row in rows:
        if len(passes[-1]) >= least and len(row) > len(passes[-1][-1]):
            passes.append([])
        passes[-1].append(row)
    *shorter, reader = [_Reader(model, part) for part in passes]
    if shorter:
        reader.join(shorter)
    return reader


def _widened(tensor: Tensor, width: int, dim: int) -> Tensor:
    """A tensor with zeros before it, to ``width`` along a dimension."""
    shape = list(tensor.shape)
    shape[dim] = width - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)


def _read_shared(model: LanguageModel, tokens: Row, count: int) -> Any:
    """Keys and values of a prefix for ``count`` rows, or ``None`` if the model caches none."""
    ids = torch.tensor([tokens], device=model.device)
    with gathered(model.head, torch.zeros(1, dtype=torch.long), torch.full((1,), -1)):
        output = model.hf(input_ids=ids, use_cache=True)
    cache = cache_of(output)
    if cache is not None:
        cache.batch_repeat_interleave(count)
    return cache


def _shared(rows: Sequence[Row]) -> int:
    """Length of the shared prefix, excluding any row's last token."""
    first, last = min(rows), max(rows)
    most = min(len(row) for row in rows) - 1
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), most)
    shared = min(same, most)
    return shared if len(rows) > 1 and shared >= _LEAST_SHARED else 0


def _can_pad(model: LanguageModel, longest: int) -> bool:
    """Whether rows may be padded after the shared prefix."""
    window = attention_window(model)
    if window is not None and longest > window:
        return False
    if model.hf not in _UNAFFECTED and _ignores_padding(model):
        _UNAFFECTED.add(model.hf)
    return model.hf in _UNAFFECTED


def _ignores_padding(model: LanguageModel) -> bool:
    """Whether padding leaves a model's results alone, found by trial for any architecture."""
    start = tuple(range(1, _LEAST_SHARED + 1))
    rows = [(*start, 9), (*start, 10, 11, 12), (*start, 9, 10, 11, 12, 13)]
    try:
        reader = _Reader(model, rows[2:])
        reader.join([_Reader(model, rows[:2])])
        together = _trial(reader)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    alone = torch.cat([_trial(_Reader(model, [row])) for row in rows])
    tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((together - alone).norm() <= tolerance * alone.norm())


def _trial(reader: _Reader) -> Tensor:
    before = reader.logits
    reader.feed([13] * len(before))
    return torch.stack([before, reader.logits], dim=1)
