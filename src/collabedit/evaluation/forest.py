"""Many rows of tokens in one sequence: shared prefixes are computed once.

Evaluation prompts share prefixes ("The mother tongue of ..."), as does one prompt with several
targets. The rows' trie, laid out in preorder, is one sequence in which every token sees only its
own prefix: the attention mask marks its ancestors, and the position ids are its depth. For a causal
model the result is that of the separate rows, at the cost of the trie's nodes, and without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from collabedit.models import LanguageModel
from collabedit.models.hooks import gathered
from collabedit.models.tokens import Batch, batches

__all__ = ["Forest", "attention_window", "can_branch", "logits_at", "plant"]


@dataclass
class Forest:
    """A forest of tokens in preorder.

    Attributes:
        tokens: the nodes' token ids.
        depths: the nodes' positions in their rows.
        ends: for each node, the index after the last node below it.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def grow(self, path: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """Add ``tokens`` below the last node of ``path`` and return the longer path."""
        new = list(range(len(self.tokens), len(self.tokens) + len(tokens)))
        self.tokens.extend(tokens)
        self.depths.extend(range(len(path), len(path) + len(tokens)))
        end = len(self.tokens)
        self.ends.extend([end] * len(new))
        for node in path:
            self.ends[node] = end
        return [*path, *new]


def plant(
    rows: Sequence[tuple[int, ...]], size: int, branching: bool = True
) -> tuple[list[Forest], dict[tuple[int, ...], tuple[int, list[int]]]]:
    """Lay rows out in forests.

    Args:
        rows: rows of token ids; they may repeat.
        size: maximum tokens of a forest (a longer row gets its own).
        branching: if false, every forest is a single row, for models that accept no such masks;
            rows that are prefixes of another are still read from the longer one.

    Returns:
        The forests, and for every row the index of its forest and the nodes of its tokens.
    """
    forests: list[Forest] = []
    locations: dict[tuple[int, ...], tuple[int, list[int]]] = {}
    previous: tuple[int, ...] = ()
    path: list[int] = []
    for row in sorted(set(rows)):  # adjacent rows share the longest prefixes
        shared = _common_length(previous, row)
        fits = bool(forests) and len(forests[-1].tokens) + len(row) - shared <= size
        extends = bool(path) and shared == len(path)
        if not (fits if branching else extends):
            forests.append(Forest())
            path, shared = [], 0
        path = forests[-1].grow(path[:shared], row[shared:])
        locations[row] = (len(forests) - 1, path)
        previous = row
    return forests, locations


def _common_length(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def logits_at(
    model: LanguageModel,
    batch: Batch,
    forests: Sequence[Forest],
    rows: Tensor,
    nodes: Tensor,
    branching: bool = True,
) -> Tensor:
    """The logits at some nodes of a batch of forests.

    Args:
        model: the model.
        batch: the forests' tokens.
        forests: the batch's forests, in order.
        rows: ``[n]``, indices of forests in the batch.
        nodes: ``[n]``, nodes in them.
        branching: whether the forests may branch; if not, the model sees ordinary padded rows.

    Returns:
        ``[n, vocabulary]``, float32.
    """
    inputs = {"attention_mask": batch.attention_mask}
    if branching:
        inputs = _branching_inputs(model, batch, forests)
    with gathered(model.head, rows.to(model.device), nodes.to(model.device)):
        output = model.hf(input_ids=batch.input_ids, use_cache=False, **inputs)
    logits: Tensor = output.logits[0].float()
    return logits


def _branching_inputs(
    model: LanguageModel, batch: Batch, forests: Sequence[Forest]
) -> dict[str, Tensor]:
    """Position ids ``[rows, length]`` and the additive mask ``[rows, 1, length, length]``."""
    width = batch.input_ids.shape[1]
    depths = pad_sequence([torch.tensor(f.depths) for f in forests], batch_first=True)
    # Padding attends to padding: a row of the mask that allows nothing would give NaN.
    ends = pad_sequence(
        [torch.tensor(f.ends) for f in forests], batch_first=True, padding_value=width
    ).to(model.device)
    index = torch.arange(width, device=model.device)
    seen = (index[None, :] <= index[:, None]) & (index[:, None] < ends[:, None, :])
    mask = torch.zeros(seen.shape, dtype=model.dtype, device=model.device)
    mask.masked_fill_(~seen, torch.finfo(model.dtype).min)
    return {"position_ids": depths.to(model.device), "attention_mask": mask[:, None]}


def attention_window(model: LanguageModel) -> int | None:
    """The window of the model's local attention, or ``None`` if it has none.

    A forest's mask replaces all masks, so neither rows nor forests may be longer.
    """
    config = model.hf.config
    window: int | None = getattr(config, "sliding_window", getattr(config, "window_size", None))
    return window


@torch.no_grad()
def can_branch(model: LanguageModel, longest: int) -> bool:
    """Whether the model, with rows of at most ``longest`` tokens, computes forests correctly.

    Some architectures accept no custom mask or no position ids (ALiBi, recurrent layers). A
    forest of two rows is compared with the separate rows, which needs no list of names.
    """
    window = attention_window(model)
    if window is not None and longest > window:
        return False
    rows = [(1, 2, 3, 4), (1, 2, 5, 6)]
    try:
        together = _last_logits(model, rows, branching=True)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    alone = _last_logits(model, rows, branching=False)
    tolerance = 1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((together - alone).norm() <= tolerance * alone.norm())


def _last_logits(model: LanguageModel, rows: Sequence[tuple[int, ...]], branching: bool) -> Tensor:
    forests, locations = plant(rows, 16, branching)
    (batch,) = batches([forest.tokens for forest in forests], 16, model.device)
    inside = torch.tensor([locations[row][0] for row in rows])
    nodes = torch.tensor([locations[row][1][-1] for row in rows])
    return logits_at(model, batch, forests, inside, nodes, branching)
