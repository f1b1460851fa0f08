"""Likelihoods of targets after prompts: the measurement behind every edit metric.

A causal model computes each position from the previous ones, so :func:`score` computes shared
prefixes once, never feeds a target's last token, and projects to the vocabulary only at
the needed positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from collabedit.errors import RequestError
from collabedit.evaluation.forest import Forest, attention_window, can_branch, logits_at, plant
from collabedit.models import LanguageModel
from collabedit.models.lengths import context_length
from collabedit.models.memory import pass_tokens
from collabedit.models.precision import quick_products
from collabedit.models.tokens import EncodedText, PromptText, batched_indices, encode, pad_right
from collabedit.progress import progress

__all__ = ["Read", "Reading", "TargetScore", "read_here", "score"]

#: Share of the tokens that predict a target's token, at most.
_READ_SHARE = 0.5


@dataclass(frozen=True)
class TargetScore:
    """A model's score for one target after one prompt, teacher-forced.

    Attributes:
        nll: mean negative log-likelihood per target token, in nats.
        tokens_correct: for each target token, whether it is the most likely one.
    """

    nll: float
    tokens_correct: tuple[bool, ...]

    @property
    def correct(self) -> bool:
        """Whether every target token is the most likely one."""
        return all(self.tokens_correct)

    @property
    def token_accuracy(self) -> float:
        """Share of target tokens that are the most likely one, 0 to 1."""
        return sum(self.tokens_correct) / len(self.tokens_correct)


@dataclass(frozen=True)
class Reading:
    """One batch of forests, and what is read from it.

    Attributes:
        forests: the batch.
        branching: whether they may branch.
        rows: ``[n]``, for each target token, its forest's index in the batch.
        nodes: ``[n]``, the node that predicts it.
        tokens: ``[n]``, the target tokens.
    """

    forests: list[Forest]
    branching: bool
    rows: Tensor
    nodes: Tensor
    tokens: Tensor


#: Yields, for one batch after another, the losses ``[n]`` of the target tokens and whether each is
#: the likeliest.
Read: TypeAlias = Callable[[LanguageModel, Sequence[Reading]], Iterator[tuple[Tensor, Tensor]]]


def score(
    model: LanguageModel,
    pairs: Sequence[tuple[str, str]],
    *,
    max_tokens: int | None = None,
    read: Read | None = None,
) -> list[TargetScore]:
    """Score targets after prompts.

    Prompt and target are joined as a writer would and tokenised together. Pass all pairs at once,
    so that shared prefixes are computed once.

    Args:
        model: the model, edited or not.
        pairs: prompts and targets; a target's leading space may be omitted.
        max_tokens: tokens per batch, including padding; by default a number that suits the device.
            Scores depend on it only through rounding.
        read: reads batches elsewhere, such as on workers; here by default.

    Returns:
        One score per pair, in the order of the pairs.

    Raises:
        RequestError: when a prompt is empty, a target has no token of its own, or both together
            exceed the model's context.
    """
    if not pairs:
        return []
    most = 16384 if model.device.type == "cuda" else 512
    budget = max_tokens or pass_tokens(model, most, read_share=_READ_SHARE)
    plan = _plan(model, pairs, size=min(_forest_size(model), budget))
    nll = torch.zeros(len(plan.tokens))
    correct = torch.zeros(len(plan.tokens), dtype=torch.bool)
    sizes = [len(forest.tokens) for forest in plan.forests]
    parts = list(batched_indices(sizes, budget))
    readings = [plan.reading(members) for members in parts]
    with progress("Scoring", sum(sizes), "tokens") as bar:
        read_parts = (read or read_here)(model, readings)
        for members, (losses, hits) in zip(parts, read_parts, strict=True):
            reads = plan.reads_of(members)
            nll[reads], correct[reads] = losses, hits
            bar.advance(sum(sizes[index] for index in members))
    nll_parts = nll.double().split(plan.counts)
    correct_parts = correct.split(plan.counts)
    return [
        TargetScore(float(losses.mean()), tuple(hits.tolist()))
        for losses, hits in zip(nll_parts, correct_parts, strict=True)
    ]


def _forest_size(model: LanguageModel) -> int:
    """Tokens per forest: larger ones share more, but attention grows with the square."""
    limits = (context_length(model), attention_window(model))
    return min([256, *(limit for limit in limits if limit is not None)])


@dataclass(frozen=True)
class _Plan:
    """What to compute, and where to read each target token's probability.

    ``n`` counts the target tokens of all pairs, in the order of the pairs.

    Attributes:
        forests: everything fed to the model.
        branching: whether forests may branch.
        reads: for each forest, which of the ``n`` are read from it.
        nodes: ``[n]``, the node that predicts the token.
        tokens: ``[n]``, the target tokens.
        counts: for each pair, its number of target tokens.
    """

    forests: list[Forest]
    branching: bool
    reads: list[list[int]]
    nodes: Tensor
    tokens: Tensor
    counts: list[int]

    def reads_of(self, members: Sequence[int]) -> Tensor:
        """Which of the ``n`` are read from some forests."""
        return torch.tensor([read for index in members for read in self.reads[index]])

    def reading(self, members: Sequence[int]) -> Reading:
        """The batch of some forests."""
        reads = self.reads_of(members)
        rows = torch.tensor([row for row, index in enumerate(members) for _ in self.reads[index]])
        forests = [self.forests[index] for index in members]
        return Reading(forests, self.branching, rows, self.nodes[reads], self.tokens[reads])


def _plan(model: LanguageModel, pairs: Sequence[tuple[str, str]], size: int) -> _Plan:
    encoded = encode(model.tokenizer, [PromptText(*pair) for pair in pairs])
    limit = context_length(model)
    for text in encoded:
        _check(text, limit)
    fed = [text.ids[:-1] for text in encoded]
    branching = can_branch(model, max(map(len, fed)))
    forests, locations = plant(fed, size, branching)
    reads: list[list[int]] = [[] for _ in forests]
    nodes: list[int] = []
    for text, row in zip(encoded, fed, strict=True):
        forest, path = locations[row]
        predicting = path[text.target_start - 1 :]
        reads[forest].extend(range(len(nodes), len(nodes) + len(predicting)))
        nodes.extend(predicting)
    tokens = [token for text in encoded for token in text.target_ids]
    counts = [len(text.target_ids) for text in encoded]
    return _Plan(forests, branching, reads, torch.tensor(nodes), torch.tensor(tokens), counts)


def _check(text: EncodedText, limit: int | None) -> None:
    if text.target_start < 1:
        raise RequestError("a target cannot be scored after an empty prompt; give a prompt")
    if limit is not None and len(text.ids) - 1 > limit:
        raise RequestError(
            f"a prompt and its target are {len(text.ids)} tokens long, the model takes {limit}; "
            "shorten the prompt"
        )


def read_here(model: LanguageModel, readings: Sequence[Reading]) -> Iterator[tuple[Tensor, Tensor]]:
    """Read one batch after another in this process."""
    return (_read(model, reading) for reading in readings)


@quick_products()
@torch.no_grad()
def _read(model: LanguageModel, reading: Reading) -> tuple[Tensor, Tensor]:
    """The losses of a batch's target tokens and whether each is the argmax, on the CPU."""
    batch = pad_right([forest.tokens for forest in reading.forests], device=model.device)
    width = batch.input_ids.shape[1]
    # Two targets of one prompt read the same node: it is projected once.
    spots, spot_of = torch.unique(reading.rows * width + reading.nodes, return_inverse=True)
    rows, nodes = spots // width, spots % width
    logits = logits_at(model, batch, reading.forests, rows, nodes, reading.branching)
    log_probabilities = torch.log_softmax(logits, dim=-1)
    tokens, spot_of = reading.tokens.to(model.device), spot_of.to(model.device)
    correct = log_probabilities.argmax(dim=-1)[spot_of] == tokens
    return -log_probabilities[spot_of, tokens].cpu(), correct.cpu()
