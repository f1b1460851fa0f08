"""Groups of texts that run in one pass, and the plain way to run them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from collabedit.models import hooks
from collabedit.models.language_model import LanguageModel

__all__ = [
    "Passes",
    "Text",
    "TextGroup",
    "WholeModel",
    "WholeTexts",
    "cheapest_parts",
    "padded",
    "regrouped",
]

#: What a pass costs besides its tokens, as a share of the tokens of the largest.
_PASS_SHARE = 1 / 8


@dataclass(frozen=True)
class Text:
    """One text of an edit.

    Attributes:
        edit: the edit's index in its batch.
        ids: token ids up to the last one that predicts something.
        start: position of the subject's last token.
        target_ids: what the last positions predict; empty if only the distribution of the next
            token is needed.
        again: positions of the last tokens of later mentions of the subject, where the change is
            added as well.
        keeps: number of last positions at which the next token's distribution must not change, if
            there is nothing to predict.
        weight: the text's weight in its edit's loss.
    """

    edit: int
    ids: tuple[int, ...]
    start: int
    target_ids: tuple[int, ...] = ()
    again: tuple[int, ...] = ()
    keeps: int = 1
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Number of tokens from the subject's last one on."""
        return len(self.ids) - self.start

    @property
    def predicting(self) -> range:
        """The positions, counted from the subject's last token, whose logits are needed."""
        return range(self.length - (len(self.target_ids) or self.keeps), self.length)


class TextGroup:
    """Texts that run in one pass.

    Attributes:
        texts: the texts.
        edit: ``[b]``, each text's edit.
        rows: ``[n]``, the rows of the positions that predict; those with a target come first.
        columns: ``[n]``, these positions.
        target_ids: ``[t]``, what the first ``t`` of them predict.
        shares: ``[t]``, the text's weight over the number of tokens that it predicts.
        changed: rows ``[c]`` and columns ``[c]`` of the positions where the change is added.
    """

    def __init__(self, texts: Sequence[Text], firsts: Sequence[int], device: torch.device) -> None:
        """``firsts`` are the columns of the subjects' last tokens."""
        self.texts = texts
        order = sorted(range(len(texts)), key=lambda row: not texts[row].target_ids)
        cells = [(row, firsts[row] + offset) for row in order for offset in texts[row].predicting]
        targets = [texts[row].target_ids for row in order]
        weights = [texts[row].weight for row in order]
        shares = [
            weight / len(ids) for ids, weight in zip(targets, weights, strict=True) for _ in ids
        ]
        self.edit = torch.tensor([text.edit for text in texts], device=device)
        self.rows, self.columns = torch.tensor(cells, device=device).T
        entered = [
            (row, first + at - text.start)
            for row, (text, first) in enumerate(zip(texts, firsts, strict=True))
            for at in (text.start, *text.again)
        ]
        self.changed = torch.tensor(entered, device=device).T
        self.target_ids = torch.tensor(sum(targets, ()), dtype=torch.long, device=device)
        self.shares = torch.tensor(shares, dtype=torch.float32, device=device)

    @staticmethod
    def width(text: Text) -> int:
        """How many columns a text takes."""
        return len(text.ids)

    def select(self, rows: Sequence[int]) -> Any:
        """The group of some of the texts, without the padding that only others needed."""
        raise NotImplementedError

    @classmethod
    def joined(cls, groups: Sequence[Any]) -> Any:
        """One group of the texts of several."""
        raise NotImplementedError


#: The groups of one way to run texts.
Group = TypeVar("Group", bound=TextGroup)


class WholeTexts(TextGroup):
    """Texts that run from their first token on, padded on the right.

    Attributes:
        inputs: ``input_ids`` and ``attention_mask``, ``[b, n]``.
    """

    def __init__(self, texts: Sequence[Text], device: torch.device) -> None:
        super().__init__(texts, [text.start for text in texts], device)
        width = max(len(text.ids) for text in texts)
        input_ids, mask = padded(texts, [0] * len(texts), width, device)
        self.inputs = {"input_ids": input_ids, "attention_mask": mask}

    def select(self, rows: Sequence[int]) -> WholeTexts:
        """The group of some of the texts."""
        return WholeTexts([self.texts[row] for row in rows], self.edit.device)

    @classmethod
    def joined(cls, groups: Sequence[WholeTexts]) -> WholeTexts:
        """One group of the texts of several."""
        return cls([text for group in groups for text in group.texts], groups[0].edit.device)


class Passes(Protocol[Group]):
    """A way to run groups of texts with a change at each subject's last token."""

    def start(self, texts: Sequence[Text], max_tokens: int) -> list[Group]:
        """Group texts for passes of at most ``max_tokens`` tokens each."""

    def logits(self, group: Group, change: Tensor | None = None) -> Tensor:
        """Logits ``[n, vocabulary]`` where a group predicts.

        Args:
            group: the texts.
            change: ``[b, d_out]``, added to the output of the layer's site at the subject's last
                token, wherever the text mentions it.
        """


class WholeModel:
    """A model that runs whole texts in every step: the plain way, which fits any architecture.

    Args:
        model: the model.
        layer: the changed layer.
    """

    def __init__(self, model: LanguageModel, layer: int) -> None:
        self.model = model
        self.layer = layer

    def start(self, texts: Sequence[Text], max_tokens: int) -> list[WholeTexts]:
        """Group texts, those of similar length together."""
        ordered = sorted(texts, key=lambda text: len(text.ids))
        parts = cheapest_parts([len(text.ids) for text in ordered], max_tokens)
        return [WholeTexts(ordered[part], self.model.device) for part in parts]

    def logits(self, group: WholeTexts, change: Tensor | None = None) -> Tensor:
        """Logits ``[n, vocabulary]`` where a group predicts; see :class:`Passes`."""
        model, ids = self.model, group.inputs["input_ids"]
        with ExitStack() as stack:
            if change is not None:
                shape = (ids.shape[0], ids.shape[1])
                site = model.site(self.layer)
                rows, columns = group.changed
                stack.enter_context(hooks.added_states(site, shape, rows, columns, change[rows]))
            stack.enter_context(hooks.gathered(model.head, group.rows, group.columns))
            output = model.hf(**group.inputs, use_cache=False)
        logits: Tensor = output.logits[0]
        return logits


def regrouped(groups: Sequence[Group], edits: Container[int], max_tokens: int) -> list[Group]:
    """The texts of some edits, in the cheapest groups."""
    members = sorted(
        (group.width(text), number, row)
        for number, group in enumerate(groups)
        for row, text in enumerate(group.texts)
        if text.edit in edits
    )
    parts = cheapest_parts([length for length, *_ in members], max_tokens)
    return [_gathered(groups, [member for _, *member in members[part]]) for part in parts]


def _gathered(groups: Sequence[Group], members: Iterable[Sequence[int]]) -> Group:
    """One group of some texts, each given by its group and its row there."""
    rows: dict[int, list[int]] = defaultdict(list)
    for group, row in members:
        rows[group].append(row)
    chosen = [groups[group].select(selected) for group, selected in rows.items()]
    joined: Group = type(chosen[0]).joined(chosen)
    return joined


def cheapest_parts(lengths: Sequence[int], max_tokens: int) -> list[slice]:
    """Cut ascending lengths into the passes that cost least, by padded tokens and by number.

    A pass has at most ``max_tokens`` tokens, or is a single text.
    """
    plans: dict[int, tuple[float, tuple[int, ...]]] = {0: (0, (0,))}  # by texts: cost, where to cut
    for end in _possible_cuts(lengths, max_tokens):
        length, previous = lengths[end - 1], max(plans)
        plans[end] = min(
            (cost + (end - start) * length + _PASS_SHARE * max_tokens, (*cuts, end))
            for start, (cost, cuts) in plans.items()
            if (end - start) * length <= max_tokens or start == previous
        )
    return [slice(start, end) for start, end in pairwise(plans[len(lengths)][1])]


def _possible_cuts(lengths: Sequence[int], max_tokens: int) -> list[int]:
    """After every run of equal lengths, and within it if it is too much for one pass."""
    cuts: list[int] = []
    start = 0
    for length, run in groupby(lengths):
        end, size = start + len(list(run)), max(1, max_tokens // length)
        cuts += [*range(start + size, end, size), end]
        start = end
    return cuts


def padded(
    texts: Sequence[Text], offsets: Sequence[int], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[b, width]``, each text ``offsets`` columns from the left."""
    input_ids = torch.zeros(len(texts), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, (text, offset) in enumerate(zip(texts, offsets, strict=True)):
        input_ids[row, offset : offset + len(text.ids)] = torch.tensor(text.ids)
        mask[row, offset : offset + len(text.ids)] = 1
    return input_ids.to(device), mask.to(device)
