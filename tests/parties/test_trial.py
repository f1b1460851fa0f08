"""What a party measures on a merged delta before it votes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from collabedit.algebra import LowRankUpdate
from collabedit.errors import RoundError
from collabedit.evaluation import score
from collabedit.messages import Delta, Gate, RoundConfig
from collabedit.models import LanguageModel
from collabedit.parties import new_round, try_delta
from collabedit.parties.trial import _own_text
from collabedit.requests import Record
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.rounds.test_round import SETTINGS

RECORDS = [
    Record(
        replace(request, target_true="Paris"),
        paraphrase_prompts=(f"They say: {request.text}",),
        neighborhood_prompts=("The capital of Italy is", "A city in France is"),
    )
    for request in REQUESTS[:3]
]


@pytest.fixture
def config(tiny_llama: LanguageModel) -> RoundConfig:
    return new_round(tiny_llama, hyperparameters=SETTINGS, contexts=CONTEXTS, gate=Gate())


def random_delta(config: RoundConfig, scale: float) -> Delta:
    generator = torch.Generator().manual_seed(5)

    def part(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    changes = {
        name: LowRankUpdate(scale * part(config.d_out, 2), part(2, config.d_in))
        for name in config.weight_names
    }
    return Delta.of(config, changes)


def test_a_trial_counts_and_compares(tiny_llama: LanguageModel, config: RoundConfig) -> None:
    delta = random_delta(config, 0.05)
    vote = try_delta(tiny_llama, delta, config, RECORDS, party="bank")
    assert (vote.party, vote.round_sha256, vote.delta_sha256) == (
        "bank",
        config.sha256,
        delta.sha256,
    )
    assert {kind: hits.of for kind, hits in vote.hits.items()} == {
        "rewrite": 3,
        "paraphrase": 3,
        "neighborhood": 6,
    }
    wins = 0
    with tiny_llama.edited(delta.changes):
        for request in (record.request for record in RECORDS):
            new, true = score(
                tiny_llama, [(request.text, request.target_new), (request.text, "Paris")]
            )
            wins += new.nll < true.nll
    assert vote.hits["rewrite"].after == wins


def test_the_ratio_of_perplexities(tiny_llama: LanguageModel, config: RoundConfig) -> None:
    """Against a plain forward pass over the model's own text, one text at a time."""
    text = _own_text(tiny_llama, config.seed)
    assert text == _own_text(tiny_llama, config.seed)
    assert sum(map(len, text)) == 512

    def loss() -> float:
        losses = []
        with torch.no_grad():
            for row in text:
                ids = torch.tensor([row])
                logits = tiny_llama.hf(input_ids=ids).logits[0, :-1].double()
                losses.append(-logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0])
        return float(torch.cat(losses).mean())

    delta = random_delta(config, 0.05)
    before = loss()
    with tiny_llama.edited(delta.changes):
        after = loss()
    vote = try_delta(tiny_llama, delta, config)
    expected = float(torch.tensor(after - before, dtype=torch.float64).exp())
    assert expected > 1.001
    assert vote.perplexity == pytest.approx(expected, rel=1e-5)  # float32 forward passes
    assert vote.hits == {}


def test_an_empty_delta_changes_no_count(tiny_llama: LanguageModel, config: RoundConfig) -> None:
    vote = try_delta(tiny_llama, random_delta(config, 0.0), config, RECORDS)
    assert vote.perplexity == 1.0
    assert all(hits.before == hits.after for hits in vote.hits.values())


@pytest.mark.parametrize("scale", [1e6, 1e200])
def test_a_ruined_model_is_not_an_error(
    tiny_llama: LanguageModel, config: RoundConfig, scale: float
) -> None:
    """Not even when its outputs are not finite; the vote says so."""
    before = {name: tiny_llama.weight(name).clone() for name in config.weight_names}
    vote = try_delta(tiny_llama, random_delta(config, scale), config, RECORDS)
    assert "perplexity" in vote.objections
    for name, weight in before.items():
        assert torch.equal(tiny_llama.weight(name), weight)


def test_deltas_that_cannot_be_tried_are_refused(
    tiny_llama: LanguageModel, config: RoundConfig, tmp_path: Path
) -> None:
    with pytest.raises(RoundError, match="unfinished round"):
        try_delta(tiny_llama, Delta.empty(config), config)
    delta = random_delta(config, 0.01)
    other = RoundConfig.model_validate({**config.model_dump(), "seed": 1})
    with pytest.raises(RoundError, match="another round"):
        try_delta(tiny_llama, delta, other)
    with tiny_llama.edited(delta.changes), pytest.raises(RoundError, match="not the model of this"):
        try_delta(tiny_llama, delta, config)
