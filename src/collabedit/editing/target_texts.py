"""The texts on which a batch's targets are optimised, change by change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from collabedit.editing.text_groups import Text
from collabedit.editing.texts import beginning_of, kept_texts_of, texts_in
from collabedit.editors import Contexts
from collabedit.models.tokens import EncodedText, encode_edits
from collabedit.requests import EditRequest

__all__ = ["Beginnings", "fact_texts", "kept_texts"]


class Beginnings:
    """How a batch's edits begin, up to the subject's end; those that begin alike get one change.

    Attributes:
        requests: the edits.
        of_edit: each edit's beginning, by number.
        sizes: how many edits each beginning has.
    """

    def __init__(self, requests: Sequence[EditRequest]) -> None:
        self.requests = requests
        numbers: dict[tuple[str, str], int] = {}
        self.of_edit = [numbers.setdefault(beginning_of(r), len(numbers)) for r in requests]
        self.sizes = [self.of_edit.count(number) for number in range(len(numbers))]

    @property
    def firsts(self) -> list[EditRequest]:
        """The first edit of each beginning."""
        return [self.requests[self.of_edit.index(number)] for number in range(len(self.sizes))]

    def mean(self, states: Tensor) -> Tensor:
        """The mean ``[beginnings, ...]`` over each one's edits of ``[edits, ...]``."""
        means = [
            states[[n == number for n in self.of_edit]].mean(dim=0)
            for number in range(len(self.sizes))
        ]
        return torch.stack(means)


def fact_texts(tokenizer: Any, template: str, weight: float, beginnings: Beginnings) -> list[Text]:
    """The edits' texts in one context, up to the last token that predicts."""
    filled = [texts_in(template, request) for request in beginnings.requests]
    encoded = iter(encode_edits(tokenizer, [text for texts in filled for text in texts]))
    return [
        _text(number, next(encoded), weight / (len(texts) * beginnings.sizes[number]))
        for number, texts in zip(beginnings.of_edit, filled, strict=True)
        for _ in texts
    ]


def _text(edit: int, text: EncodedText, weight: float) -> Text:
    again = (text.again,) if text.again >= 0 else ()
    return Text(edit, text.ids[:-1], text.subject_last, text.target_ids, again, weight=weight)


def kept_texts(tokenizer: Any, contexts: Contexts, beginnings: Beginnings) -> list[list[Text]]:
    """By context, the texts in which something must not change: MEMIT's up to the subject."""
    by_edit = [kept_texts_of(request, contexts) for request in beginnings.firsts]
    essence, *others = (encode_edits(tokenizer, texts) for texts in zip(*by_edit, strict=True))
    first = [
        Text(edit, text.ids[: text.subject_last + 1], text.subject_last)
        for edit, text in enumerate(essence)
    ]
    return [first, *([_kept(edit, t) for edit, t in enumerate(texts)] for texts in others)]


def _kept(edit: int, text: EncodedText) -> Text:
    """The predictions of the target and of the token after it must not change."""
    keeps = len(text.target_ids) + 1
    return Text(edit, text.ids, text.subject_last, again=(text.again,), keeps=keeps)
