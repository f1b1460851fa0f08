"""Continue prompts by top-k sampling, reproducibly."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from collabedit.errors import RequestError
from collabedit.models import LanguageModel
from collabedit.models.lengths import context_length
from collabedit.models.sampling import extend
from collabedit.models.tokens import PromptText, encode
from collabedit.progress import progress

__all__ = ["Draws", "Sample", "generate", "sample_here"]


@dataclass(frozen=True)
class Draws:
    """Rows to sample together; its length is the number of rows.

    Attributes:
        ids: ``[rows, given]``, token ids of the prompts.
        uniform: ``[rows, length]``, a uniform random number in [0, 1) for each token of the texts.
        top_k: how many of the most likely tokens to sample from.
    """

    ids: Tensor
    uniform: Tensor
    top_k: int

    def __len__(self) -> int:
        return len(self.ids)


#: Yields each batch's token ids ``[rows, length]``, prompts included, in the order of the batches.
Sample: TypeAlias = Callable[[LanguageModel, Sequence[Draws]], Iterator[Tensor]]


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    max_length: int = 100,
    top_k: int = 5,
    max_rows: int = 64,
    sample: Sample | None = None,
) -> list[str]:
    """Continue prompts by top-k sampling, as ROME does.

    A text depends on the model, its prompt, the seed, and the number of earlier copies of the
    prompt, but not on other prompts. An end-of-text token does not end it, so all texts have the
    same length. Prompts of equal length form a batch, so nothing is padded.

    Args:
        model: the model.
        prompts: the beginnings of the texts; equal ones are continued differently.
        seed: seed of the sampling.
        max_length: tokens per text, its prompt included.
        top_k: how many of the most likely tokens to sample from.
        max_rows: maximum texts generated at once.
        sample: samples the batches, for instance on workers; by default, this process does.

    Returns:
        Each prompt with its continuation, without special tokens, NFKD-normalised, and with each
        blank line replaced by a space.

    Raises:
        RequestError: when a prompt has no token or more than ``max_length`` or the model's context
            allow.
    """
    limit = min(max_length, context_length(model) or max_length)
    encoded = [text.ids for text in encode(model.tokenizer, [PromptText(p) for p in prompts])]
    groups: dict[int, list[int]] = defaultdict(list)
    for index, ids in enumerate(encoded):
        if not 0 < len(ids) <= limit:
            raise RequestError(
                f"the generation prompt {prompts[index]!r} has {len(ids)} tokens; "
                f"it must have 1 to {limit}"
            )
        groups[len(ids)].append(index)
    draws = _draws(prompts, seed, limit)
    chunks = [
        group[start : start + max_rows]
        for group in groups.values()
        for start in range(0, len(group), max_rows)
    ]
    batches = [
        Draws(torch.tensor([encoded[index] for index in chunk]), draws[chunk], top_k)
        for chunk in chunks
    ]
    rows: dict[int, list[int]] = {}
    with progress("Generating", len(prompts), "texts") as bar:
        for chunk, out in zip(chunks, (sample or sample_here)(model, batches), strict=True):
            rows.update(zip(chunk, out.tolist(), strict=True))
            bar.advance(len(chunk))
    return [_decode(model, rows[index]) for index in range(len(prompts))]


def _draws(prompts: Sequence[str], seed: int, length: int) -> Tensor:
    """Uniform random numbers ``[prompts, length]``, each row from its own generator."""
    seen: Counter[str] = Counter()
    draws = torch.empty(len(prompts), length)
    for index, prompt in enumerate(prompts):
        key = hashlib.sha256(f"{seed}\0{seen[prompt]}\0{prompt}".encode()).digest()
        seen[prompt] += 1
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        draws[index] = torch.rand(length, generator=generator)
    return draws


def sample_here(model: LanguageModel, batches: Sequence[Draws]) -> Iterator[Tensor]:
    """Sample batches one by one in this process."""
    return (_sample(model, batch) for batch in batches)


def _sample(model: LanguageModel, batch: Draws) -> Tensor:
    """Extend a batch's rows to the length of its random numbers; the result is on the CPU."""
    uniform = batch.uniform.to(model.device)

    def choose(logits: Tensor, position: int) -> Tensor:
        best = logits.topk(batch.top_k, dim=-1)
        cumulative = best.values.softmax(dim=-1).cumsum(dim=-1)
        chosen = (cumulative < uniform[:, position, None]).sum(dim=-1, keepdim=True)
        return best.indices.gather(-1, chosen.clamp(max=batch.top_k - 1))

    return extend(model, batch.ids.to(model.device), uniform.shape[1], choose).cpu()


def _decode(model: LanguageModel, ids: list[int]) -> str:
    text: str = model.tokenizer.decode(ids, skip_special_tokens=True)
    return unicodedata.normalize("NFKD", text).replace("\n\n", " ")
