"""Texts from the subject's last token on: all that a change at that token can touch.

Everything before the token is computed once: hidden states up to the changed layer's output, and
keys and values in the layers above. The rest runs in every step, many texts in one pass; texts of
different lengths share a pass if padding the shorter ones costs less than another pass.

Not every architecture can be entered in the middle: layers may share keys and values, keep a state
instead, or pass on more than hidden states. So this way is compared once with plain passes over
whole texts, which replace it where it differs (:mod:`collabedit.editing.passes`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from collabedit.editing.text_groups import Text, TextGroup, cheapest_parts, padded
from collabedit.models import hooks
from collabedit.models.key_values import SameTypeCache, given_cache
from collabedit.models.language_model import LanguageModel

__all__ = ["SuffixModel", "Suffixes"]

#: Keys and values of one layer, each ``[b, heads, tokens, head size]``.
_KeysValues = tuple[Tensor, Tensor]


class Suffixes(TextGroup):
    """A group of ``b`` texts whose last tokens, at most ``s``, run in one pass.

    Prefixes, of at most ``p`` tokens, are padded on the left, suffixes on the right; columns are
    counted from the subject's last token on.

    Attributes:
        prefix: a ``transformers`` cache; by layer, keys and values ``[b, heads, p, head size]``.
        hidden: ``[b, s, d_out]``, the unedited output of the changed layer.
        site: ``[b, s, d_out]``, the output of the layer's site.
        inputs: ``input_ids [b, s]``, ``attention_mask [b, p + s]``, ``position_ids [b, s]``.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        prefix: Iterable[_KeysValues],
        hidden: Tensor,
        site: Tensor,
    ) -> None:
        device = hidden.device
        super().__init__(texts, [0] * len(texts), device)
        self.prefix = _cache_of(prefix)
        self.hidden = hidden
        self.site = site
        start = _longest_start(texts)
        offsets = [start - text.start for text in texts]
        input_ids, mask = padded(texts, offsets, start + hidden.shape[1], device)
        self.inputs = _inputs(input_ids, mask, start)

    @staticmethod
    def width(text: Text) -> int:
        """How many columns a text takes."""
        return text.length

    def select(self, rows: Sequence[int]) -> Suffixes:
        """The group of some of the texts, without the padding that only others needed."""
        texts = [self.texts[row] for row in rows]
        index = torch.tensor(rows, device=self.hidden.device)
        spare = _longest_start(self.texts) - _longest_start(texts)
        prefix = [
            (layer.keys[at, :, spare:], layer.values[at, :, spare:])
            for layer in self.prefix.layers
            for at in (index.to(layer.keys.device),)  # sharded models have several
        ]
        columns = slice(_longest(texts))
        return Suffixes(texts, prefix, self.hidden[index, columns], self.site[index, columns])

    @classmethod
    def joined(cls, groups: Sequence[Suffixes]) -> Suffixes:
        """One group of the texts of several."""
        texts = [text for group in groups for text in group.texts]
        start, length = _longest_start(texts), _longest(texts)

        def joined(states: Iterable[Tensor]) -> Tensor:  # keys, or values, of one layer
            return torch.cat([pad(state, (0, 0, start - state.shape[2], 0)) for state in states])

        prefix = [
            (joined(part.keys for part in layer), joined(part.values for part in layer))
            for layer in zip(*(group.prefix.layers for group in groups), strict=True)
        ]

        def aligned(states: Iterable[Tensor]) -> Tensor:
            return torch.cat([pad(state, (0, 0, 0, length - state.shape[1])) for state in states])

        hidden = aligned(group.hidden for group in groups)
        return cls(texts, prefix, hidden, aligned(group.site for group in groups))


class SuffixModel:
    """A model that runs only the layers above ``layer``, given that layer's output.

    Args:
        model: the model.
        layer: the changed layer.
    """

    def __init__(self, model: LanguageModel, layer: int) -> None:
        self.model = model
        self.layer = layer
        self._output_like: Any = None

    @torch.no_grad()
    def start(self, texts: Sequence[Text], max_tokens: int) -> list[Suffixes]:
        """Run texts once, their common beginning for only one of them; keep what the steps need."""
        stem = _common_beginning([text.ids[: text.start] for text in texts])
        beginning = self._beginning(stem)
        ordered = sorted(texts, key=lambda text: len(text.ids))
        parts = cheapest_parts([len(text.ids) - len(stem) for text in ordered], max_tokens)
        return [self._start(ordered[part], len(stem), beginning) for part in parts]

    def _beginning(self, stem: Sequence[int]) -> list[_KeysValues]:
        """By layer, keys and values ``[1, heads, c, head size]`` of ``c`` tokens, if any."""
        cache = _cache_of([])
        if stem:
            hf, ids = self.model.hf, torch.tensor([stem], device=self.model.device)
            with hooks.stops_before(self.model.head):
                hf(input_ids=ids, use_cache=True, **given_cache(hf, cache))
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _start(self, texts: Sequence[Text], stem: int, beginning: list[_KeysValues]) -> Suffixes:
        """Run texts from their token ``stem`` on, given keys and values of those before it."""
        device = self.model.device
        input_ids, mask = padded(texts, [0] * len(texts), len(texts[-1].ids), device)
        cache = _cache_of(_repeated(beginning, len(texts)))
        with ExitStack() as stack:
            changed = {"layer": self.model.layer(self.layer), "site": self.model.site(self.layer)}
            outputs = stack.enter_context(hooks.seen_outputs(changed))
            stack.enter_context(hooks.stops_before(self.model.head))
            hf = self.model.hf
            hf(**_inputs(input_ids, mask, stem), **given_cache(hf, cache))
        self._output_like = outputs["layer"]
        last = torch.tensor([text.start for text in texts], device=device)
        longest = _longest_start(texts)
        site = hooks.hidden_states(outputs["site"])  # experts see all tokens in one row
        site = site.reshape(len(texts), -1, site.shape[-1])

        def prefix(index: int, states: Tensor) -> Tensor:
            if index <= self.layer:  # of layers that do not run, only the length is used
                states = states[:, :1, :, :1]
            return _windows(states.transpose(1, 2), last - longest, longest).transpose(1, 2)

        return Suffixes(
            texts,
            [(prefix(i, c.keys), prefix(i, c.values)) for i, c in enumerate(cache.layers)],
            _windows(hooks.hidden_states(self._output_like), last - stem, _longest(texts)),
            _windows(site, last - stem, _longest(texts)),
        )

    def logits(self, group: Suffixes, change: Tensor | None = None) -> Tensor:
        """Logits ``[n, vocabulary]`` where a group predicts; see :class:`Passes`."""
        model = self.model
        hidden = group.hidden
        if change is not None:
            rows, columns = group.changed
            moved = model.effect(self.layer, group.site[rows, columns], change[rows])
            first = hidden[rows, columns] + moved
            hidden = hidden.index_put((rows, columns), first.to(hidden.dtype))
        below = [model.layer(layer) for layer in range(self.layer)]
        with ExitStack() as stack:
            stack.enter_context(
                hooks.replaced_layers(below, model.layer(self.layer), self._output_like, hidden)
            )
            stack.enter_context(hooks.gathered(model.head, group.rows, group.columns))
            given = given_cache(model.hf, _extensible(group.prefix))
            output = model.hf(**group.inputs, **given)
        logits: Tensor = output.logits[0]
        return logits


def _common_beginning(rows: Sequence[tuple[int, ...]]) -> list[int]:
    columns = zip(*rows, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def _longest_start(texts: Sequence[Text]) -> int:
    return max(text.start for text in texts)


def _longest(texts: Sequence[Text]) -> int:
    return max(text.length for text in texts)


def _inputs(input_ids: Tensor, mask: Tensor, start: int) -> dict[str, Any]:
    """Arguments of a pass over ids and mask ``[b, n]`` from a column on, with the rest cached."""
    position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {
        "input_ids": input_ids[:, start:],
        "attention_mask": mask,
        "position_ids": position_ids[:, start:],
        "use_cache": True,
    }


def _cache_of(states: Iterable[_KeysValues]) -> Any:
    """A ``transformers`` cache of keys and values, layer by layer."""
    cache: Any = SameTypeCache()
    for index, (keys, values) in enumerate(states):
        cache.update(keys[:, :, :0], values[:, :, :0], index)  # a full update would copy
        cache.layers[index].keys, cache.layers[index].values = keys, values
    return cache


def _repeated(states: Iterable[_KeysValues], count: int) -> Iterator[_KeysValues]:
    """The keys and values of one row for ``count`` rows, without copies of them."""
    for keys, values in states:
        yield keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1)


def _extensible(cache: Any) -> Any:
    """A cache that a pass can extend without changing the given one; the tensors are shared."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def _windows(states: Tensor, first: Tensor, width: int) -> Tensor:
    """``width`` columns ``[b, width, ...]`` of ``[b, n, ...]``, each row's from ``first [b]`` on.

    Entries of a window outside the row are arbitrary.
    """
    first = first.to(states.device)  # a sharded model's layers are on several devices
    columns = first[:, None] + torch.arange(width, device=first.device)
    rows = torch.arange(len(first), device=first.device)[:, None]
    return states[rows, columns.clamp(0, states.shape[1] - 1)]
