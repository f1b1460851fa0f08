"""How many tokens a collection takes, how much memory, and what identifies it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from collabedit.covariance.checkpoint import PARTIAL_FORMAT
from collabedit.covariance.corpus import Corpus, Plan
from collabedit.covariance.sums import PANELS
from collabedit.files import sha256_of_json
from collabedit.models import LanguageModel

__all__ = [
    "TOKENS_PER_INPUT",
    "collection_key",
    "default_tokens",
    "expected_seconds",
    "layers_at_once",
    "memory_needed",
    "plan_of",
]

#: Blocks into which a collection is divided for the sampling error, where they stay small enough.
_BLOCKS = 16
#: Most tokens of a block: more would lose digits in float32.
_BLOCK_TOKENS = 16384
#: Least tokens for each input of the MLP, unless the user says otherwise.
TOKENS_PER_INPUT = 10
#: Texts and tokens of each in the forward pass that is timed to estimate the whole.
_TRIED_ROWS, _TRIED_LENGTH = 4, 64


def default_tokens(model: LanguageModel, corpus: Corpus) -> int:
    """Tokens to take by default: the corpus's default, but at least ten per MLP input.

    Second moments of fewer tokens than inputs are singular, and of only a few more badly
    conditioned. An expert sees a share of the tokens: ten per input of its own if all see equally
    many.
    """
    structure = model.structure
    seen = structure.active_size / structure.mlp_size  # by an expert, as a share
    least = TOKENS_PER_INPUT * structure.mlp_size / structure.blocks / seen
    return max(corpus.default_tokens, math.ceil(least))


def memory_needed(model: LanguageModel, layers: Sequence[int]) -> int:
    """Bytes that the matrices take while collecting: float64 sums, and products of one block."""
    size = model.structure.moment_size
    panels = (PANELS + 1) / (2 * PANELS)
    product = 8 if model.dtype == torch.float64 else 4
    return int(len(set(layers)) * size * (8 + product * panels))


def layers_at_once(model: LanguageModel, layers: Sequence[Any]) -> int:
    """Number of layers whose matrices fit into half of the model's memory budget; at least one."""
    count = len(set(layers))
    if model.memory_budget is None:
        return count
    return max(1, min(count, int(model.memory_budget / 2 / memory_needed(model, [0]))))


def plan_of(model: LanguageModel, tokens: int, max_length: int) -> Plan:
    """The sizes of a collection: its tokens, its windows and its blocks."""
    context = getattr(model.hf.config.get_text_config(), "max_position_embeddings", max_length)
    block = max(1, min(tokens // _BLOCKS, _BLOCK_TOKENS))
    return Plan(tokens, min(max_length, context), block)


def collection_key(fingerprint: dict[str, str], corpus: Corpus, plan: Plan) -> str:
    """Hash of everything that a collection depends on."""
    corpus_key = dict(corpus.identity())
    return sha256_of_json(
        [PARTIAL_FORMAT, 1, fingerprint, corpus_key, plan.tokens, plan.max_length]
    )


@torch.inference_mode()
def expected_seconds(
    model: LanguageModel, corpus: Corpus, tokens: int, layers: Sequence[int]
) -> float:
    """Estimate how long a collection takes on this machine, from one small forward pass.

    Generating tokens uses all layers of the model; collecting, those up to the last one asked for.
    """
    ids = torch.zeros(_TRIED_ROWS, _TRIED_LENGTH, dtype=torch.long, device=model.device)
    model.hf(input_ids=ids[:1], use_cache=False)  # the first pass also sets things up
    began = time.monotonic()
    model.hf(input_ids=ids, use_cache=False)
    token_seconds = (time.monotonic() - began) / ids.numel()
    making = corpus.generation_share / (1 - corpus.generation_share)
    return tokens * token_seconds * (making + (max(layers) + 1) / model.structure.n_layers)
