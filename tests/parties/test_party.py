"""Skipping what the model already knows."""

from __future__ import annotations

import math

import pytest
import torch

from collabedit.algebra import relative_distance
from collabedit.errors import InputError, RequestError, RoundError
from collabedit.messages import Delta, Policy, Schedule
from collabedit.models import LanguageModel
from collabedit.parties import Party
from collabedit.privacy import decide, detect
from collabedit.requests import EditRequest
from tests.editing.facts import REQUESTS
from tests.rounds.test_round import edited_by, make_parties, make_round


@pytest.fixture
def tiny_llama(exact_llama: LanguageModel) -> LanguageModel:
    """A model that computes in float64 throughout, since rounds are compared to the last digits."""
    return exact_llama


def probability(model: LanguageModel, request: EditRequest) -> float:
    """The geometric mean of the new object's token probabilities, with one pass per fact."""
    prompt = model.tokenizer(request.text).input_ids
    ids = model.tokenizer(f"{request.text} {request.target_new}", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model.hf(ids).logits.double()[0]
    positions = range(len(prompt) - 1, ids.shape[1] - 1)
    logs = torch.log_softmax(logits, dim=-1)
    return math.exp(sum(float(logs[i, ids[0, i + 1]]) for i in positions) / len(positions))


def threshold_between(model: LanguageModel, known: int) -> tuple[float, list[EditRequest]]:
    """A threshold that ``known`` requests reach, and the others."""
    ranked = sorted((probability(model, request) for request in REQUESTS), reverse=True)
    threshold = (ranked[known - 1] + ranked[known]) / 2
    return threshold, [r for r in REQUESTS if probability(model, r) < threshold]


@pytest.mark.parametrize("known", [1, 3, 5])
def test_what_the_model_knows_is_skipped(tiny_llama: LanguageModel, known: int) -> None:
    threshold, unknown = threshold_between(tiny_llama, known)
    party = Party(tiny_llama, REQUESTS, make_round(tiny_llama), skip_known=threshold)
    assert party.skipped == known
    assert party.requests == unknown
    update = party.contribute(Delta.empty(party.config))
    assert (update.metadata.edits, update.metadata.skipped) == (len(unknown), known)


def test_nothing_is_skipped_by_default(tiny_llama: LanguageModel) -> None:
    party = Party(tiny_llama, REQUESTS, make_round(tiny_llama))
    assert (party.skipped, party.left_out, party.requests) == (0, 0, REQUESTS)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_round_uses_only_the_edits_that_remain(
    tiny_llama: LanguageModel, schedule: Schedule
) -> None:
    """Also in a layerwise round, whose later exchanges see a model that knows the edits."""
    config = make_round(tiny_llama, schedule)
    threshold, unknown = threshold_between(tiny_llama, 2)
    skipping = Party(tiny_llama, REQUESTS, config, skip_known=threshold)
    made = edited_by("CollabEdit", [skipping])
    expected = edited_by("CollabEdit", [Party(tiny_llama, unknown, config)])
    assert made.metadata.edits == len(unknown)
    for name, change in expected.changes.items():
        assert relative_distance(made.changes[name], change) < 1e-10


def test_given_targets_are_cut_down_to_the_edits_that_remain(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    threshold, unknown = threshold_between(tiny_llama, 2)
    targets = torch.arange(32.0 * len(REQUESTS)).reshape(32, -1)
    party = Party(tiny_llama, REQUESTS, config, targets=targets, skip_known=threshold)
    columns = [REQUESTS.index(request) for request in unknown]
    assert torch.equal(party.targets, targets[:, columns])


def test_the_pooled_party_holds_the_edits_that_remain(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama, Schedule.ONE_SHOT)
    threshold, unknown = threshold_between(tiny_llama, 3)
    parties = [
        Party(tiny_llama, REQUESTS[start::2], config, skip_known=threshold) for start in (0, 1)
    ]
    assert all(party.skipped and party.requests for party in parties)
    merged = edited_by("CollabEdit", parties)
    pooled = Party.pooled(parties)
    assert sorted(r.case_id for r in pooled.requests) == [r.case_id for r in unknown]
    expected = edited_by("GLOBAL", [pooled])
    for name, change in expected.changes.items():
        assert relative_distance(merged.changes[name], change) < 1e-10


def test_a_decision_is_about_the_edits_that_are_not_skipped(tiny_llama: LanguageModel) -> None:
    config, key = make_round(tiny_llama), b"0123456789abcdef"
    threshold, unknown = threshold_between(tiny_llama, 2)
    assert REQUESTS[:4] != unknown  # otherwise the skipped ones come last
    options = {"fingerprint_key": key, "skip_known": threshold}
    other = Party(tiny_llama, unknown[1:3], config, fingerprint_key=key).announce()
    announced = Party(tiny_llama, REQUESTS, config, **options).announce()
    updates = {"other": other.metadata, "ours": announced.metadata}
    decision = decide(detect(updates), Policy.FIRST)
    party = Party(tiny_llama, REQUESTS, config, decision=decision, **options)
    assert (party.skipped, party.left_out) == (2, 2)
    assert party.requests == [unknown[0], unknown[3]]
    without = Party(tiny_llama, REQUESTS, config, decision=decision, fingerprint_key=key)
    with pytest.raises(RoundError, match="with the same requests, key and --skip-known"):
        without.announce()


def test_a_party_with_nothing_new_says_so(tiny_llama: LanguageModel) -> None:
    lowest = min(probability(tiny_llama, request) for request in REQUESTS)
    party = Party(tiny_llama, REQUESTS, make_round(tiny_llama), skip_known=lowest / 2)
    with pytest.raises(RequestError, match="already knows all 6 edits; there is nothing to send"):
        party.contribute(Delta.empty(party.config))


def test_an_edited_model_is_not_asked_what_it_knows(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama, Schedule.ONE_SHOT)
    delta = edited_by("GLOBAL", make_parties(tiny_llama, config, [6]))
    party = Party(tiny_llama, REQUESTS, config, skip_known=0.5)
    with tiny_llama.edited(delta.changes), pytest.raises(RoundError, match="not the model"):
        party.requests  # noqa: B018  (settles them)
    assert party.skipped == 0


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1, math.nan])
def test_a_threshold_must_be_a_probability(tiny_llama: LanguageModel, threshold: float) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1"):
        Party(tiny_llama, REQUESTS, make_round(tiny_llama), skip_known=threshold)
