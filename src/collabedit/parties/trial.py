"""Trying a merged delta: what a party measures before it votes on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, cast

from collabedit.covariance import Plan, SelfCorpus
from collabedit.evaluation import CaseResult, evaluate, mean_loss
from collabedit.messages import Delta, Evaluation, Hits, RoundConfig
from collabedit.messages.evaluation import Kind
from collabedit.models.language_model import LanguageModel
from collabedit.parties.opening import check_round_model
from collabedit.requests import Record

__all__ = ["try_delta"]

#: How much the unedited model writes for the held-out text: enough that the ratio of perplexities
#: is known to a hundredth or two, in texts short enough to be sampled quickly.
_TOKENS, _LENGTH = 512, 64
#: Ratios beyond this one, and those of models that no longer compute, say no more than it does.
_MOST = 1e6


def try_delta(
    model: LanguageModel,
    delta: Delta,
    config: RoundConfig,
    records: Sequence[Record] = (),
    *,
    party: str = "",
) -> Evaluation:
    """Try a complete delta on the unedited model, and vote by the round's gate.

    The held-out text is what the unedited model itself writes, sampled at temperature 1 under the
    round's seed. So nobody has to agree on a text or its language, and the logarithm of the ratio
    of perplexities is an estimate of the divergence ``KL(unedited || edited)`` per token.

    Args:
        model: the round's model, unedited; it is left as it was.
        delta: what the round came to.
        config: the round.
        records: the edits whose prompts are tried; none for a coordinator that only has a model.
        party: what the vote calls its party.

    Returns:
        The vote. Under secure aggregation it has no counts, which would tell how many edits the
        party has.

    Raises:
        RoundError: when the model is not the round's, or the delta is of another round or not
            complete.
    """
    check_round_model(config, model)
    delta.check_round(config)
    delta.require_complete()
    text = _own_text(model, config.seed)
    before, loss_before = evaluate(model, records), mean_loss(model, text)
    with model.edited(delta.changes):
        after, loss_after = evaluate(model, records), mean_loss(model, text)
    hits = _hits(before, after) if records else {}
    ratio = _ratio(loss_before, loss_after)
    return Evaluation(
        round_sha256=config.sha256,
        delta_sha256=delta.sha256,
        party=party,
        hits={} if config.secure_aggregation is not None else hits,
        perplexity=ratio,
        objections=config.vote_by.objections(hits, ratio),
    )


def _own_text(model: LanguageModel, seed: int) -> list[Sequence[int]]:
    plan = Plan(tokens=_TOKENS, max_length=_LENGTH, chunk_tokens=_TOKENS)
    chunks = SelfCorpus(seed).chunks(model, plan, 0, lambda _: None)
    return [row for chunk in islice(chunks, 1) for row in chunk]


def _ratio(before: float, after: float) -> float:
    more = after - before
    return math.exp(more) if more < math.log(_MOST) else _MOST  # also where it is not a number


def _hits(before: Sequence[CaseResult], after: Sequence[CaseResult]) -> dict[Kind, Hits]:
    kinds: tuple[Kind, ...] = ("rewrite", "paraphrase", "neighborhood")
    counted = {}
    for kind in kinds:
        first, second = _count(before, kind), _count(after, kind)
        counted[kind] = Hits(before=first[0], after=second[0], of=second[1])
    return counted


def _count(cases: Sequence[CaseResult], kind: Kind) -> tuple[int, int]:
    """Hits and prompts: where the wanted object is the likelier one, or every token's likeliest."""
    outcomes: list[bool] = []
    for case in cases:
        values = cast(Mapping[str, Any], case)
        pairs = values.get(f"{kind}_prompts_probs") or []
        if pairs and "target_true" in pairs[0]:
            wins = [pair["target_new"] < pair["target_true"] for pair in pairs]
            outcomes += [won != (kind == "neighborhood") for won in wins]
        else:
            outcomes += values.get(f"{kind}_prompts_correct") or []
    return sum(outcomes), len(outcomes)
