"""The short way to targets is used where it is correct, and the plain one elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from collabedit.algebra import relative_distance
from collabedit.covariance import TextCorpus, collect
from collabedit.editing import measure, optimise_targets
from collabedit.editing import passes as passes_module
from collabedit.editing.passes import quickest_passes
from collabedit.editing.suffixes import SuffixModel
from collabedit.editing.text_groups import Text, WholeModel, regrouped
from collabedit.editors import Hyperparameters, bare_contexts
from collabedit.merging import resolve_method
from collabedit.models import LanguageModel
from collabedit.models.hooks import added_states
from collabedit.models.tokens import encode, fill_template
from collabedit.parties import Party, new_round
from collabedit.requests import EditRequest
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process
from tests.conftest import CORPUS, EXACT, make_model
from tests.editing.facts import REQUESTS
from tests.models.architectures import (
    gemma4,
    gemma4_per_layer,
    gemma4_shared,
    granite,
    post_norm,
    qwen3_5,
)

TEXTS = [
    Text(0, (5, 9, 30, 31, 40), 2, (7, 8)),
    Text(1, (5, 9, 30), 1, (12,)),
    Text(0, (5, 9, 77, 78, 79, 80, 81), 2, (3, 4), again=(5,)),
    Text(1, (5, 50, 51), 2),
]
CHANGE = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))

Make = Callable[[], LanguageModel]


def rows(passes: Any, change: Tensor | None) -> Tensor:
    """Logits of all texts in one order."""
    found = []
    for group in passes.start(TEXTS, 1000):
        logits = passes.logits(group, None if change is None else change[group.edit])
        keys = [(group.texts[row].edit, group.texts[row].ids) for row in group.rows.tolist()]
        found += zip(keys, logits, strict=True)
    return torch.stack([row for _, row in sorted(found, key=lambda item: item[0])])


@pytest.mark.parametrize("change", [None, CHANGE.double()])
def test_short_and_plain_way_agree(
    exact_family_model: LanguageModel, change: Tensor | None
) -> None:
    with torch.no_grad():
        short = rows(SuffixModel(exact_family_model, 1), change)
        plain = rows(WholeModel(exact_family_model, 1), change)
    torch.testing.assert_close(short, plain, rtol=EXACT, atol=EXACT)
    if change is not None:
        unchanged = rows(WholeModel(exact_family_model, 1), None)
        assert (plain - unchanged).norm() > 1e-2 * unchanged.norm()


def chosen(model: LanguageModel) -> Any:
    return quickest_passes(model, model, 1, TEXTS, torch.ones(2), 1000)


def test_every_family_takes_the_short_way(
    family_model: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(chosen(family_model), SuffixModel)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("make", [granite, gemma4])
def test_factors_do_not_prevent_the_short_way(make: Make) -> None:
    assert isinstance(chosen(make()), SuffixModel)


@pytest.mark.parametrize("make", [gemma4_per_layer, gemma4_shared, qwen3_5, post_norm])
def test_others_take_the_plain_way_and_say_so(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(chosen(make()), WholeModel)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "targets take longer than usual" in said


def test_rejects_a_short_way_that_is_wrong(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SuffixModel.logits

    def wrong(self: SuffixModel, group: Any, change: Tensor | None = None) -> Tensor:
        return right(self, group, None if change is None else 0.98 * change)

    monkeypatch.setattr(SuffixModel, "logits", wrong)
    assert isinstance(chosen(tiny_llama), WholeModel)


def test_a_quick_copy_that_differs_is_not_used(
    tiny_llama: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_model("llama", hidden_act="relu")
    taken = quickest_passes(tiny_llama, other, 1, TEXTS, torch.ones(2), 1000)
    assert taken.model is tiny_llama
    assert "quick copy differs" in capsys.readouterr().err
    same = make_model("llama")
    assert quickest_passes(tiny_llama, same, 1, TEXTS, torch.ones(2), 1000).model is same


def test_whole_texts_are_regrouped_like_others(tiny_llama: LanguageModel) -> None:
    passes = WholeModel(tiny_llama, 1)
    groups = regrouped(passes.start(TEXTS, 8), {1}, 1000)
    assert [text for group in groups for text in group.texts] == [TEXTS[1], TEXTS[3]]


def test_targets_do_not_depend_on_the_way(
    exact_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Hyperparameters(layers=(1,), target_steps=2, target_learning_rate=0.1)

    def found() -> Tensor:
        return optimise_targets(exact_llama, REQUESTS[:3], bare_contexts(), settings, quick=False)

    short = found()
    monkeypatch.setattr(passes_module, "SuffixModel", WholeModel)
    torch.testing.assert_close(found(), short, rtol=EXACT, atol=EXACT)


@torch.no_grad()
def losses(
    model: LanguageModel, layer: int, requests: Sequence[EditRequest], moves: Tensor
) -> Tensor:
    """The targets' loss after moving the site's output at each subject's end, by hand."""
    found = []
    for request, move in zip(requests, moves.T, strict=True):
        filled = fill_template("{}", request.prompt, request.subject, request.target_new)
        (text,) = encode(model.tokenizer, [filled])
        shape, at = (1, len(text.ids)), torch.tensor([text.subject_last])
        with added_states(model.site(layer), shape, torch.tensor([0]), at, move[None]):
            logits = model.hf(torch.tensor([text.ids]), use_cache=False).logits[0]
        predicting = logits[text.target_start - 1 : -1]
        found.append(cross_entropy(predicting, torch.tensor(text.target_ids)))
    return torch.stack(found)


@pytest.mark.slow
@pytest.mark.usefixtures("exact_arithmetic")
@pytest.mark.parametrize(
    "make", [granite, gemma4, gemma4_per_layer, gemma4_shared, qwen3_5, post_norm]
)
def test_an_edit_without_slack_reaches_its_target(make: Make) -> None:
    """From the loss to the weight: everything between the two is as assumed."""
    model = make()
    layer = 0 if make is gemma4_shared else 1
    settings = Hyperparameters(
        layers=(layer,),
        prior_weight=5.0,
        target_steps=10,
        target_learning_rate=0.002,  # these losses are steep
        clamp_factor=4.0,
    )
    config = new_round(model, editor="EMMET", hyperparameters=settings, contexts=bare_contexts())
    party = Party(model, REQUESTS[:2], config)
    corpus = TextCorpus("texts", {}, lambda: CORPUS)
    priors = static_priors(config, collect(model, config.layers, corpus, tokens=100, max_length=32))

    def hidden() -> Tensor:
        return measure(model, party.requests, bare_contexts(), (), layer).hidden

    before, wanted = hidden(), party.targets.double()
    unmoved, moved = (
        losses(model, layer, party.requests, m) for m in (0 * before, wanted - before)
    )
    assert (moved < unmoved).all()
    delta = run_in_process([party], Coordinator(config, priors, resolve_method("GLOBAL")))
    with model.edited(delta.changes):
        assert (hidden() - wanted).norm() < EXACT * (wanted - before).norm()
    halves = [Party(model, [request], config) for request in party.requests]
    merged = run_in_process(halves, Coordinator(config, priors, resolve_method("CollabEdit")))
    for name, change in delta.changes.items():
        assert relative_distance(merged.changes[name], change) < EXACT
