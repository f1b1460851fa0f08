"""Text that the model itself writes, sampled from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from collabedit.covariance.corpus import Plan, Report, Window
from collabedit.files import sha256_of_json
from collabedit.models import LanguageModel
from collabedit.models.sampling import extend
from collabedit.models.tokens import leading_special_tokens

__all__ = ["SelfCorpus"]

#: Length of sampled texts: longer ones cost more per token and vary less.
_SAMPLE_LENGTH = 128
#: Most texts sampled together: the rate still grows with it on a CPU.
_SAMPLE_ROWS = 80
#: Number of first tokens to draw from if the tokenizer puts nothing in front of a text.
_FIRST_TOKENS = 200


@dataclass(frozen=True)
class SelfCorpus:
    """Texts that the model itself writes, sampled at temperature 1.

    Attributes:
        seed: of all random draws; chunk ``i`` has its own generator, seeded with it and ``i``.
    """

    seed: int = 0
    generation_share: ClassVar[float] = 0.85
    default_tokens: ClassVar[int] = 10_000

    @property
    def description(self) -> str:
        """``self``, and the seed."""
        return f"self: sampled from the model at temperature 1, seed {self.seed}"

    def identity(self) -> Mapping[str, Any]:
        """The seed and the form of the samples."""
        return {"self": self.seed, "length": _SAMPLE_LENGTH, "rows": _SAMPLE_ROWS}

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Window]]:
        """Sample one batch of texts per chunk, all of equal size, without end."""
        rows, length, _ = self.sizes(plan)
        sampler = model.quick_copy()
        for number in count(start):
            generator = torch.Generator(model.device)
            generator.manual_seed(int(sha256_of_json([self.seed, number])[:15], 16))
            yield _sample(sampler, rows, length, generator, report)

    @staticmethod
    def sizes(plan: Plan) -> tuple[int, int, int]:
        """Texts of a chunk, tokens of a text, and how many chunks a plan takes."""
        length = min(plan.max_length, _SAMPLE_LENGTH)
        batches = -(-plan.tokens // (_SAMPLE_ROWS * length))
        return -(-plan.tokens // (batches * length)), length, batches


def _special_ids(tokenizer: Any) -> list[int]:
    added = tokenizer.added_tokens_decoder.items()
    return sorted({*tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)})


def _first_tokens(tokenizer: Any, special: Sequence[int]) -> list[int]:
    """Common tokens that a text may begin with: vocabularies are ordered by frequency."""
    ordinary = [id_ for id_ in range(len(tokenizer)) if id_ not in set(special)]
    capitalised = (
        id_
        for id_ in ordinary
        if len(text := tokenizer.decode([id_])) > 1 and text.isalpha() and text.istitle()
    )
    return list(islice(capitalised, _FIRST_TOKENS)) or ordinary[-_FIRST_TOKENS:]


def _sample(
    model: LanguageModel, rows: int, length: int, generator: torch.Generator, report: Report
) -> list[Window]:
    """Sample ``rows`` texts of exactly ``length`` tokens at temperature 1.

    They begin with what the tokenizer puts in front of a text. If that is nothing, they begin with
    a common token drawn at random: a beginning-of-text token would be foreign there, and in chat
    models it leads to the same few words. Special tokens are never drawn, so a text continues where
    the model would end it.
    """
    tokenizer = model.tokenizer
    special = _special_ids(tokenizer)
    written = _beginnings(tokenizer, special, rows, generator)
    report(written.numel())

    def choose(logits: Tensor, _position: int) -> Tensor:
        logits = logits[:, : len(tokenizer)]
        logits[:, [id_ for id_ in special if id_ < logits.shape[1]]] = -torch.inf
        report(rows)
        return _draw(logits, generator)

    texts: list[Window] = extend(model, written, length, choose).tolist()
    return texts


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token per row ``[rows, 1]``, by inverting the CDF: far faster than multinomial."""
    cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    point = torch.rand(len(logits), 1, generator=generator, device=logits.device)
    drawn = torch.searchsorted(cumulative, point * cumulative[:, -1:], right=True)
    return drawn.clamp(max=logits.shape[-1] - 1)


def _beginnings(
    tokenizer: Any, special: Sequence[int], rows: int, generator: torch.Generator
) -> Tensor:
    """``[rows, n]``, the first token ids of texts to sample."""
    prefix = leading_special_tokens(tokenizer)
    if prefix:
        return torch.tensor([prefix] * rows, device=generator.device)
    choices = torch.tensor(_first_tokens(tokenizer, special), device=generator.device)
    drawn = torch.randint(len(choices), (rows, 1), generator=generator, device=generator.device)
    return choices[drawn]
