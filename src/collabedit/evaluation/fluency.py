"""Free text about an edited subject: is it fluent, and does it agree with the new fact?

Fluency and consistency are the generation entropy and the reference score of ROME (Meng et al.,
NeurIPS 2022).
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from statistics import fmean
from typing import Any, TypedDict

import torch
from torch import Tensor

from collabedit.errors import MissingExtraError, RequestError
from collabedit.models import LanguageModel
from collabedit.models.lengths import context_length
from collabedit.models.sampling import extend
from collabedit.models.tokens import PromptText, encode
from collabedit.progress import progress
from collabedit.requests import Record

__all__ = [
    "GenerationResult",
    "consistency",
    "evaluate_generations",
    "generate",
    "ngram_entropy",
    "reference_vectorizer",
]

_WORD = re.compile(
    r"""
    n['’]t\b                          # don't -> do n't
    | ['’](?:s|m|d|ll|re|ve)\b        # it's -> it 's
    | (?:\w(?!n['’]t\b))*\w           # a word, up to such an ending
      (?:[-./:,]\w+ | ['’](?!(?:s|m|d|ll|re|ve|t)\b)\w+)*   # state-of-the-art, 3.14, O'Neill
    | \.\.+ | --+ | ``                # runs that are one token
    | [^\w\s]                         # any other mark alone
    """,
    re.VERBOSE | re.IGNORECASE,
)


class GenerationResult(TypedDict, total=False):
    """What generations of one record show; the keys are those of ROME's result files.

    ``reference_score`` is absent where the record has no reference texts.
    """

    ngram_entropy: float
    reference_score: float
    text: list[str]


def evaluate_generations(
    model: LanguageModel,
    records: Sequence[Record],
    *,
    seed: int = 0,
    max_length: int = 100,
    top_k: int = 5,
) -> list[GenerationResult]:
    """Generate from the records' generation prompts and measure the texts.

    Args:
        model: the model, edited or not.
        records: the records; one without generation prompts gets an empty result.
        seed: of the sampling.
        max_length: tokens of a text, its prompt included.
        top_k: the most likely tokens to sample from.

    Returns:
        One result a record, in the order of the records.

    Raises:
        RequestError: when a prompt is longer than the model's context.
        MissingExtraError: when there are reference texts and scikit-learn is not installed.
    """
    references = [text for record in records for text in record.reference_texts]
    vectorizer = reference_vectorizer(references) if references else None
    prompts = [prompt for record in records for prompt in record.generation_prompts]
    texts = iter(generate(model, prompts, seed=seed, max_length=max_length, top_k=top_k))
    return [
        _measure(list(islice(texts, len(record.generation_prompts))), record, vectorizer)
        for record in records
    ]


def _measure(texts: list[str], record: Record, vectorizer: Any) -> GenerationResult:
    if not texts:
        return {}
    result: GenerationResult = {
        "ngram_entropy": fmean(ngram_entropy(text) for text in texts),
        "text": texts,
    }
    if record.reference_texts:
        joined = " ".join(record.reference_texts)
        result["reference_score"] = consistency(" ".join(texts), joined, vectorizer)
    return result


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

    A text depends on the model, its prompt, the seed, and how often the same prompt came before
    it; not on the other prompts. An end-of-text token does not end it, so that all texts are
    equally long. Prompts of one length form a batch, so nothing is padded.

    Args:
        model: the model.
        prompts: openings; equal ones are continued differently.
        seed: of the sampling.
        max_length: tokens of a text, its prompt included.
        top_k: the most likely tokens to sample from.
        max_rows: texts generated at once.

    Returns:
        Prompts with their continuations: special tokens removed, NFKD-normalised, blank lines
        replaced by a space.

    Raises:
        RequestError: when a prompt has no token, or leaves the model's context no room.
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
    """Uniform numbers ``[prompts, length]``, each row from a generator of its own."""
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


def ngram_entropy(text: str) -> float:
    """Mean of the entropies of a text's 2-grams and 3-grams, weighted 2/3 and 4/3, in bits.

    Repetitive text scores low. Words are found by a regular expression that follows the Penn
    Treebank conventions (``do n't``, ``it 's``, marks alone); values lie within 0.02 of those of
    ROME, which uses NLTK. A text of fewer than two words has entropy 0.
    """
    words = _WORD.findall(text)
    return fmean((2 / 3 * _entropy(words, 2), 4 / 3 * _entropy(words, 3)))


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values())


def reference_vectorizer(texts: Sequence[str]) -> Any:
    """A tf-idf vectorizer (scikit-learn) whose document frequencies are those of ``texts``.

    Raises:
        MissingExtraError: when scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise MissingExtraError("scikit-learn", "text", "measuring consistency") from None
    return TfidfVectorizer().fit(texts)


def consistency(text: str, reference: str, vectorizer: Any) -> float:
    """Cosine of two texts' tf-idf vectors, 0 to 1; 0 when they share no known word.

    Args:
        text: the generations of one record, joined.
        reference: its reference texts, joined.
        vectorizer: as :func:`reference_vectorizer` makes it; its rows have norm 1.
    """
    first, second = vectorizer.transform([text, reference])
    return float((first @ second.T).sum())
