"""Continue prompts by top-k sampling, reproducibly."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from collabedit.errors import RequestError
from collabedit.models import LanguageModel
from collabedit.models.lengths import context_length
from collabedit.models.sampling import extend
from collabedit.models.tokens import PromptText, encode
from collabedit.progress import progress

__all__ = ["generate"]


def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    max_length: int = 100,
    top_k: int = 5,
    max_rows: int = 64,
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
    rows: dict[int, list[int]] = {}
    with progress("Generating", len(prompts), "texts") as bar:
        for group in groups.values():
            for start in range(0, len(group), max_rows):
                chunk = group[start : start + max_rows]
                given = torch.tensor([encoded[place] for place in chunk], device=model.device)
                out = _sample(model, given, draws[chunk].to(model.device), top_k)
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


def _sample(model: LanguageModel, ids: Tensor, draws: Tensor, top_k: int) -> Tensor:
    """Extend ``ids [rows, given]`` to as many tokens as there are ``draws [rows, length]``."""

    def choose(logits: Tensor, position: int) -> Tensor:
        best = logits.topk(top_k, dim=-1)
        cumulative = best.values.softmax(dim=-1).cumsum(dim=-1)
        chosen = (cumulative < draws[:, position, None]).sum(dim=-1, keepdim=True)
        return best.indices.gather(-1, chosen.clamp(max=top_k - 1))

    return extend(model, ids, draws.shape[1], choose)


def _decode(model: LanguageModel, ids: list[int]) -> str:
    text: str = model.tokenizer.decode(ids, skip_special_tokens=True)
    return unicodedata.normalize("NFKD", text).replace("\n\n", " ")
