"""NAS against the official code, and its consequences for parties and rounds."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from collabedit.algebra import relative_distance
from collabedit.editing import find_targets, measure, measured_anchor, optimise_targets
from collabedit.editing.anchors import _states, anchored
from collabedit.editors import Hyperparameters, bare_contexts
from collabedit.errors import InputError
from collabedit.messages import RoundConfig, RoundState
from collabedit.models import LanguageModel, hooks
from collabedit.models.tokens import encode_edits, fill_template
from collabedit.parties import Party, new_round, round_on
from tests.conftest import make_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.rounds.test_round import edited_by, make_parties

OFFICIAL = load_file(Path(__file__).parents[1] / "fixtures" / "nas" / "targets.safetensors")
LAYER = 2
SETTINGS = Hyperparameters(layers=(1, LAYER), target_steps=3, prior_weight=5.0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_targets_are_scaled_and_dropped_as_in_the_official_code(family: str) -> None:
    model = make_model(family)
    hidden, own = _states(model, REQUESTS[:4], SETTINGS)
    found = anchored(OFFICIAL[f"{family}/0"].double(), hidden, own, 3.0)
    # The official code computes in float32.
    torch.testing.assert_close(found, OFFICIAL[f"{family}/3"].double(), rtol=1e-4, atol=1e-4)
    dropped = (found == hidden).all(dim=0)
    assert 0 < int(dropped.sum()) < 4


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "gpt_neox"])
def test_values_have_the_anchors_norm(family: str) -> None:
    """The projection's output is measured by hand, with its bias and before any norm."""
    model = make_model(family)
    settings = SETTINGS.with_changes(layers=(LAYER,), clamp_factor=0.5)
    plain = optimise_targets(model, REQUESTS[:3], CONTEXTS, settings).double()
    anchor = 50.0
    targets = find_targets(
        model, REQUESTS[:3], CONTEXTS, settings.with_changes(norm_anchor=anchor)
    ).double()
    for column, request in enumerate(REQUESTS[:3]):
        filled = fill_template("{}", request.prompt, request.subject)
        (text,) = encode_edits(model.tokenizer, [filled])
        ids, last = list(text.ids), text.subject_last
        with torch.no_grad(), hooks.seen_outputs({0: model.projection(LAYER)}) as seen:
            model.hf(torch.tensor([ids]))
        own = seen[0].view(len(ids), -1)[last].double()
        hidden = measure(model, [request], bare_contexts(), [LAYER], LAYER).hidden[:, 0]
        before, after = (own + z[:, column] - hidden for z in (plain, targets))
        assert float(after.norm()) == pytest.approx(anchor, rel=1e-3)
        assert float(torch.cosine_similarity(before, after, dim=0)) > 1 - 1e-4


def test_a_dropped_edit_has_nothing_left_to_write(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model("llama")
    settings = SETTINGS.with_changes(norm_anchor=1e-3)
    with caplog.at_level(logging.WARNING):
        targets = find_targets(model, REQUESTS, CONTEXTS, settings)
    hidden = measure(model, REQUESTS, bare_contexts(), [LAYER], LAYER).hidden
    torch.testing.assert_close(targets, hidden.float())
    assert "6 of 6 edits are dropped" in caplog.text
    assert "lower clamp_factor" in caplog.text


def test_the_anchor_is_the_mean_without_the_longest() -> None:
    model = make_model("llama")
    many = [REQUESTS[i % 4] for i in range(20)]
    targets = optimise_targets(model, many, CONTEXTS, SETTINGS).double()
    hidden, own = _states(model, many, SETTINGS)
    norms = (own + targets - hidden).norm(dim=0).tolist()
    expected = sum(sorted(norms)[:19]) / 19
    assert measured_anchor(model, many, CONTEXTS, SETTINGS) == pytest.approx(expected, rel=1e-9)


def round_with(model: LanguageModel, anchor: float | None) -> RoundConfig:
    settings = SETTINGS.with_changes(norm_anchor=anchor)
    return new_round(model, hyperparameters=settings, contexts=CONTEXTS)


def test_opening_a_round_measures_the_anchor_once_for_all_rounds(
    exact_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collabedit.parties.opening._ANCHOR_FACTS", 4)
    config = round_with(exact_llama, 0.0)
    anchor = config.hyperparameters.norm_anchor
    assert anchor is not None
    assert anchor > 0.1
    assert round_with(exact_llama, 0.0).hyperparameters.norm_anchor == anchor
    assert RoundConfig.from_bytes(config.to_bytes()).hyperparameters.norm_anchor == anchor
    assert round_on(config, exact_llama).hyperparameters.norm_anchor == anchor
    assert round_with(exact_llama, None).hyperparameters.norm_anchor is None


def test_later_rounds_do_not_measure_it_on_the_edited_model(exact_llama: LanguageModel) -> None:
    settings = SETTINGS.with_changes(norm_anchor=0.0)
    state = RoundState(finished=1)
    with pytest.raises(InputError, match="give the number in the first round's round"):
        new_round(exact_llama, hyperparameters=settings, contexts=CONTEXTS, state=state)


def test_merging_is_lossless_with_an_anchor(exact_llama: LanguageModel) -> None:
    config = round_with(exact_llama, 6.0)
    plain = round_with(exact_llama, None)
    merged = edited_by("CollabEdit", make_parties(exact_llama, config))
    pooled = edited_by("GLOBAL", make_parties(exact_llama, config, [6]))
    without = edited_by("GLOBAL", make_parties(exact_llama, plain, [6]))
    for name, change in pooled.changes.items():
        assert relative_distance(merged.changes[name], change) < 1e-10
        assert relative_distance(without.changes[name], change) > 1e-3


def test_an_unmeasured_anchor_and_editors_without_targets_are_refused() -> None:
    model = make_model("llama")
    settings = SETTINGS.with_changes(norm_anchor=0.0)
    with pytest.raises(InputError, match="norm_anchor has not been measured"):
        find_targets(model, REQUESTS, CONTEXTS, settings)
    with pytest.raises(InputError, match="UltraEdit searches for no targets"):
        new_round(model, editor="UltraEdit", hyperparameters=settings, contexts=CONTEXTS)


def test_a_party_scales_its_own_targets(exact_llama: LanguageModel) -> None:
    config = round_with(exact_llama, 6.0)
    party = Party(exact_llama, REQUESTS[:2], config)
    (together,) = Party.together(exact_llama, [REQUESTS[:2]], config)
    expected = find_targets(exact_llama, REQUESTS[:2], CONTEXTS, config.hyperparameters)
    torch.testing.assert_close(party.targets, expected)
    torch.testing.assert_close(together.targets, expected)
