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
    """Rows that are sampled together; its length is their number.

    Attributes:
        ids: ``[rows, given]``, token ids of the prompts.
        uniform: ``[rows, length]``, a uniform number for each token of the texts.
        top_k: the most likely tokens to sample from.
    """

    ids: Tensor
    uniform: Tensor
    top_k: int

    def __len__(self) -> int:
        return len(self.ids)


#: Gives the token ids ``[rows, length]`` of the texts of one batch after the other.
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
    prompt, but not on other prompts. An end-of-text token does not end it, so that all texts are
    equally long. Prompts of the same length form a batch, so nothing is padded.

    Args:
        model: the model.
        prompts: openings; equal ones are continued differently.
        seed: of the sampling.
        max_length: tokens of a text, its prompt included.
        top_k: the most likely tokens to sample from.
        max_rows: maximum texts generated at once.
        sample: samples batches elsewhere, such as on workers; here by default.

    Returns:
        Prompts with their continuations: special tokens removed, NFKD-normalised, blank lines
        replaced by a space.

    Raises:
        RequestError: when a prompt has no token, or fills the model's context.
    """
    limit = min(max_length, context_length(model) or max_length)
    encoded = [text.ids for text in encode(model.tokenizer, [PromptText(p) for p in prompts])]
    groups: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(encoded):
        if not 0 < len(ids) <= limit:
            raise RequestError(
                f"the generation prompt {prompts[place]!r} has {len(ids)} tokens; "
                f"it must have 1 to {limit}"
            )
        groups[len(ids)].append(place)
    draws = _draws(prompts, seed, limit)
    chunks = [
        group[start : start + max_rows]
        for group in groups.values()
        for start in range(0, len(group), max_rows)
    ]
    batches = [
        Draws(torch.tensor([encoded[place] for place in chunk]), draws[chunk], top_k)
        for chunk in chunks
    ]
    rows: dict[int, list[int]] = {}
    with progress("Generating", len(prompts), "texts") as bar:
        for chunk, out in zip(chunks, (sample or sample_here)(model, batches), strict=True):
            rows.update(zip(chunk, out.tolist(), strict=True))
            bar.advance(len(chunk))
    return [_decode(model, rows[place]) for place in range(len(prompts))]


def _draws(prompts: Sequence[str], seed: int, length: int) -> Tensor:
    """Uniform numbers ``[prompts, length]``, each row from its own generator."""
    seen: Counter[str] = Counter()
    draws = torch.empty(len(prompts), length)
    for place, prompt in enumerate(prompts):
        key = hashlib.sha256(f"{seed}\0{seen[prompt]}\0{prompt}".encode()).digest()
        seen[prompt] += 1
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        draws[place] = torch.rand(length, generator=generator)
    return draws


def sample_here(model: LanguageModel, batches: Sequence[Draws]) -> Iterator[Tensor]:
    """Sample one batch after the other in this process."""
    return (_sample(model, batch) for batch in batches)


def _sample(model: LanguageModel, batch: Draws) -> Tensor:
    """Extend a batch's rows to as many tokens as it has numbers for, on the CPU."""
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
