from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from benchmarks.plain import plain_target
from collabedit.editing import TargetCache, measure, optimise_targets
from collabedit.editing.target_solver import TargetSolver
from collabedit.editing.text_groups import cheapest_parts
from collabedit.editing.texts import kept_texts_of, texts_in
from collabedit.editors import Hyperparameters, bare_contexts
from collabedit.models import LanguageModel
from collabedit.models.hooks import added_states
from collabedit.models.precision import has_fast_bfloat16
from collabedit.models.tokens import EncodedText, encode_edits
from collabedit.requests import EditRequest
from tests.conftest import EXACT, make_model
from tests.editing.facts import CONTEXTS, REQUESTS, TALKS
from tests.models.test_language_model import change

SETTINGS = Hyperparameters(layers=(1, 2), target_steps=8, target_learning_rate=0.1)


#: Without the quick copy, whatever the processor is fast at.
exact_targets = partial(optimise_targets, quick=False)


def assert_same_targets(model: LanguageModel, targets: Tensor, settings: Hyperparameters) -> None:
    expected = torch.stack(
        [plain_target(model, request, CONTEXTS, settings)[0] for request in REQUESTS], dim=1
    )
    torch.testing.assert_close(targets, expected, atol=EXACT, rtol=EXACT)


def test_targets_equal_the_plain_way(exact_family_model: LanguageModel) -> None:
    targets = exact_targets(exact_family_model, REQUESTS, CONTEXTS, SETTINGS)
    assert_same_targets(exact_family_model, targets, SETTINGS)


def test_the_first_layer_can_be_the_last_edited_one(exact_llama: LanguageModel) -> None:
    settings = SETTINGS.with_changes(layers=(0,))
    targets = exact_targets(exact_llama, REQUESTS, CONTEXTS, settings)
    assert_same_targets(exact_llama, targets, settings)


def test_the_top_layer_can_be_edited_where_the_prompt_ends_in_the_subject(
    exact_llama: LanguageModel,
) -> None:
    settings = SETTINGS.with_changes(layers=(2, 3))
    request = REQUESTS[3]
    target = exact_targets(exact_llama, [request], CONTEXTS, settings)[:, 0]
    expected, _ = plain_target(exact_llama, request, CONTEXTS, settings)
    torch.testing.assert_close(target, expected, atol=EXACT, rtol=EXACT)


def test_targets_with_a_token_in_front_of_every_text(exact_arithmetic: None) -> None:
    model = make_model("llama", bos=True)
    assert_same_targets(model, exact_targets(model, REQUESTS, CONTEXTS, SETTINGS), SETTINGS)


def test_converged_edits_stop_where_the_plain_way_stops(exact_llama: LanguageModel) -> None:
    settings = SETTINGS.with_changes(
        loss_threshold=5.2, target_steps=25, clamp_factor=4.0, target_learning_rate=0.5
    )
    losses = [plain_target(exact_llama, r, CONTEXTS, settings)[1] for r in REQUESTS]
    assert any(loss < 5.2 for loss in losses)
    targets = exact_targets(exact_llama, REQUESTS, CONTEXTS, settings)
    assert_same_targets(exact_llama, targets, settings)


def test_batches_order_and_memory_budget_change_nothing(exact_llama: LanguageModel) -> None:
    whole = exact_targets(exact_llama, REQUESTS, CONTEXTS, SETTINGS)
    parts = exact_targets(
        exact_llama, REQUESTS[::-1], CONTEXTS, SETTINGS, max_edits=2, max_tokens=5
    )
    torch.testing.assert_close(parts.flip(1), whole, atol=EXACT, rtol=EXACT)


def test_the_change_is_clamped(exact_llama: LanguageModel) -> None:
    tight = SETTINGS.with_changes(clamp_factor=0.01, target_learning_rate=1.0)
    targets = exact_targets(exact_llama, REQUESTS, CONTEXTS, tight)
    still = exact_targets(exact_llama, REQUESTS, CONTEXTS, tight.with_changes(target_steps=1))
    moved = (targets - still).norm(dim=0) / still.norm(dim=0)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), atol=EXACT, rtol=EXACT)


def test_the_model_is_left_as_it_was(tiny_gpt2: LanguageModel) -> None:
    ids = torch.tensor([[5, 6, 7]])
    before = tiny_gpt2.hf(ids).logits
    exact_targets(tiny_gpt2, REQUESTS[:1], CONTEXTS, SETTINGS)
    assert torch.equal(tiny_gpt2.hf(ids).logits, before)
    assert all("forward" not in module.__dict__ for module in tiny_gpt2.hf.modules())


def test_the_cache_key_covers_everything_that_a_target_depends_on(
    tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    cache = TargetCache(tmp_path)

    def stored() -> int:
        return len(list(tmp_path.rglob("*.safetensors")))

    first = exact_targets(tiny_llama, REQUESTS[:2], CONTEXTS, SETTINGS, cache=cache)
    again = exact_targets(tiny_llama, REQUESTS[:2], CONTEXTS, SETTINGS, cache=cache)
    assert torch.equal(first, again)
    assert stored() == 1
    (name,) = tiny_llama.weight_names([0])
    with tiny_llama.edited({name: change(tiny_llama)}):  # another state of the model
        other = exact_targets(tiny_llama, REQUESTS[:2], CONTEXTS, SETTINGS, cache=cache)
    assert not torch.allclose(other, first)
    assert stored() == 2
    conflicting = [REQUESTS[0].__class__(0, "The capital of {} is", "France", "Spain")]
    exact_targets(tiny_llama, conflicting, CONTEXTS, SETTINGS, cache=cache)
    exact_targets(tiny_llama, REQUESTS[:2], CONTEXTS[:1], SETTINGS, cache=cache)
    more_steps = SETTINGS.with_changes(target_steps=9)
    exact_targets(tiny_llama, REQUESTS[:2], CONTEXTS, more_steps, cache=cache)
    exact_targets(tiny_llama, REQUESTS[:1], CONTEXTS, SETTINGS, cache=cache)  # other neighbours
    exact_targets(tiny_llama, REQUESTS[:2], CONTEXTS, SETTINGS, cache=cache, max_tokens=9)
    assert stored() == 7
    higher_prior = SETTINGS.with_changes(prior_weight=7.0)  # does not touch the targets
    exact_targets(tiny_llama, REQUESTS[:2], CONTEXTS, higher_prior, cache=cache)
    assert stored() == 7


def test_cached_targets_hold_no_text(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    exact_targets(tiny_llama, REQUESTS[:1], CONTEXTS, SETTINGS, cache=TargetCache(tmp_path))
    (path,) = tmp_path.rglob("*.safetensors")
    assert b"France" not in path.read_bytes()
    assert "France" not in str(path)


def test_a_damaged_cache_entry_is_computed_again(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    cache = TargetCache(tmp_path)
    first = exact_targets(tiny_llama, REQUESTS[:1], CONTEXTS, SETTINGS, cache=cache)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(b"damaged")
    again = exact_targets(tiny_llama, REQUESTS[:1], CONTEXTS, SETTINGS, cache=cache)
    assert torch.equal(again, first)


class InterruptedCache(TargetCache):
    """Is interrupted in the middle of storing."""

    def __init__(self, folder: Path, stores: int) -> None:
        super().__init__(folder)
        self.left = stores

    def store(self, key: str, targets: torch.Tensor) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().store(key, targets)


@pytest.mark.parametrize("stores", [0, 1])
@pytest.mark.parametrize("quick", [True, False])
def test_an_interrupted_run_ends_with_the_same_bits(
    tiny_llama: LanguageModel, tmp_path: Path, stores: int, quick: bool
) -> None:
    find = partial(
        optimise_targets, tiny_llama, REQUESTS, CONTEXTS, SETTINGS, quick=quick, max_edits=4
    )
    whole = find(cache=TargetCache(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        find(cache=InterruptedCache(tmp_path / "parts", stores))
    assert len(list((tmp_path / "parts").rglob("*.safetensors"))) == stores
    assert torch.equal(find(cache=TargetCache(tmp_path / "parts")), whole)
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        again = tmp_path / "parts" / path.relative_to(tmp_path / "whole")
        assert again.read_bytes() == path.read_bytes()


def test_other_edits_of_a_batch_affect_only_the_last_bits(exact_llama: LanguageModel) -> None:
    together = exact_targets(exact_llama, REQUESTS, CONTEXTS, SETTINGS)
    alone = [exact_targets(exact_llama, [r], CONTEXTS, SETTINGS)[:, 0] for r in REQUESTS]
    torch.testing.assert_close(together, torch.stack(alone, dim=1), atol=EXACT, rtol=EXACT)


def test_only_batches_with_a_missing_target_are_solved_again(
    tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = partial(exact_targets, tiny_llama, REQUESTS, CONTEXTS, SETTINGS, max_edits=2)
    cache = TargetCache(tmp_path)
    whole = find(cache=cache)
    stored = sorted(tmp_path.rglob("*.safetensors"))
    stored[0].unlink()
    solved = []
    run = TargetSolver.run

    def counted(self: TargetSolver, *args: Any) -> Tensor:
        solved.append(len(self.initial))
        return run(self, *args)

    monkeypatch.setattr(TargetSolver, "run", counted)
    assert torch.equal(find(cache=cache), whole)
    assert solved == [2]
    assert torch.equal(find(cache=cache), whole)
    assert solved == [2]


def test_a_repeated_edit_is_solved_once(tiny_llama: LanguageModel) -> None:
    request = replace(REQUESTS[1], case_id=77)
    targets = optimise_targets(tiny_llama, [*REQUESTS, request], CONTEXTS, SETTINGS)
    assert torch.equal(targets[:, 6], targets[:, 1])
    assert torch.equal(targets[:, :6], optimise_targets(tiny_llama, REQUESTS, CONTEXTS, SETTINGS))


def test_no_edits(tiny_llama: LanguageModel) -> None:
    assert optimise_targets(tiny_llama, [], CONTEXTS, SETTINGS).shape == (32, 0)


@pytest.mark.parametrize("max_tokens", [1, 7, 30, 100_000])
def test_passes_stay_within_their_bound(max_tokens: int) -> None:
    lengths = [1] * 9 + [3, 4, 4, 5, 9, 9, 10, 40]
    parts = [lengths[part] for part in cheapest_parts(lengths, max_tokens)]
    assert [length for part in parts for length in part] == lengths
    assert all(len(part) * max(part) <= max_tokens or len(part) == 1 for part in parts)


def test_short_texts_are_padded_if_that_is_cheaper_than_a_pass() -> None:
    lengths = [1] * 100 + [2] * 20 + [3] * 100 + [30] * 3 + [31] * 40
    parts = cheapest_parts(lengths, 1400)  # a pass costs as much as 175 tokens
    assert [lengths[part][-1] for part in parts] == [1, 3, 31]


def test_bfloat16_steps_end_near_the_exact_targets(tiny_llama: LanguageModel) -> None:
    exact = exact_targets(tiny_llama, REQUESTS, CONTEXTS, SETTINGS)
    start = exact_targets(tiny_llama, REQUESTS, CONTEXTS, SETTINGS.with_changes(target_steps=1))
    quick = optimise_targets(tiny_llama, REQUESTS, CONTEXTS, SETTINGS)
    assert (quick - exact).norm() < 0.25 * (exact - start).norm()
    if has_fast_bfloat16(tiny_llama.device):
        assert not torch.equal(quick, exact)
    else:
        assert torch.equal(quick, exact)


ALIKE = [
    EditRequest(0, "{} is ruled from", "France", "Rome", question="Where does France rule?"),
    EditRequest(1, "{} is a", "France", "city", prompts=("They say that {} is a", "So {} is a")),
]


def by_hand(
    model: LanguageModel, requests: Sequence[EditRequest], settings: Hyperparameters
) -> Tensor:
    """The targets ``[d_out, n]`` of edits that begin alike, each text by itself and whole."""
    weights = {template: 1 / 4 for group in TALKS[:3] for template in group}  # two of either kind
    texts = [
        (weights[template] / len(own) / len(requests), text)
        for template in weights
        for request in requests
        for own in [encode_edits(model.tokenizer, texts_in(template, request))]
        for text in own
    ]
    essence, kept = encode_edits(model.tokenizer, kept_texts_of(requests[0], TALKS))
    essence = replace(essence, ids=essence.ids[: essence.subject_last + 1], target_start=0)

    def log_probs(text: EncodedText, delta: Tensor) -> Tensor:
        positions = torch.tensor([at for at in (text.subject_last, text.again) if at >= 0])
        shape, rows = (1, len(text.ids)), torch.zeros_like(positions)
        site = model.site(settings.layers[-1])
        with added_states(site, shape, rows, positions, delta.expand(len(positions), -1)):
            return model.hf(torch.tensor([text.ids]), use_cache=False).logits[0].log_softmax(-1)

    hidden = measure(model, requests, bare_contexts(), (), settings.layers[-1]).hidden
    delta = torch.zeros_like(hidden[:, 0], requires_grad=True)
    with torch.no_grad():
        before = [log_probs(text, delta) for text in (essence, kept)]
    firsts = (len(essence.ids) - 1, kept.target_start - 1)
    optimizer = torch.optim.Adam([delta], lr=settings.target_learning_rate)
    size = hidden.mean(dim=1).norm()
    for _ in range(settings.target_steps - 1):
        loss = settings.target_weight_decay * delta.norm() / size**2
        for weight, text in texts:
            found = log_probs(text, delta)[text.target_start - 1 : -1]
            loss = loss + weight * cross_entropy(found, torch.tensor(text.target_ids))
        for text, old, first in zip((essence, kept), before, firsts, strict=True):
            now = log_probs(text, delta)[first:]
            moved = kl_div(old[first:], now, log_target=True, reduction="sum")
            loss = loss + settings.kl_factor * moved
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            delta *= min(1.0, settings.clamp_factor * size / delta.norm())
    return hidden + delta.detach()[:, None]


def test_conversations_and_edits_that_begin_alike_equal_the_plain_way(
    exact_family_model: LanguageModel,
) -> None:
    settings = SETTINGS.with_changes(target_steps=4)
    found = exact_targets(exact_family_model, ALIKE, TALKS, settings)
    expected = by_hand(exact_family_model, ALIKE, settings)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


def test_edits_that_begin_alike_share_a_change_within_their_party_only(
    tiny_llama: LanguageModel,
) -> None:
    find = partial(exact_targets, tiny_llama, contexts=TALKS, settings=SETTINGS)
    first, second = ALIKE
    together = find([first, REQUESTS[1], second])
    alone = torch.cat([find([first]), find([second])], dim=1)
    apart = find([first, REQUESTS[1], second], owners=[0, 0, 1])
    torch.testing.assert_close(apart[:, [0, 2]], alone, rtol=1e-4, atol=1e-4)  # of other batches
    assert (together[:, [0, 2]] - alone).norm() > 0.1 * alone.norm()
    both = find([first, second, second, first], owners=[0, 0, 1, 1])
    assert torch.equal(both[:, :2], both[:, [3, 2]])


def test_edits_of_one_subject_that_begin_otherwise_have_changes_of_their_own(
    tiny_llama: LanguageModel,
) -> None:
    find = partial(exact_targets, tiny_llama, contexts=TALKS, settings=SETTINGS)
    edits = [ALIKE[1], EditRequest(2, "The capital of {} is", "France", "Rome")]
    alone = torch.cat([find([edit]) for edit in edits], dim=1)
    torch.testing.assert_close(find(edits), alone, rtol=1e-4, atol=1e-4)  # of other batches


def test_edits_may_stop_once_their_answers_are_the_likeliest(exact_llama: LanguageModel) -> None:
    facts = [("Spain", "in"), ("France", "is"), ("Paris", "of")]  # a token each, within its reach
    requests = [EditRequest(i, "They say {}", *fact) for i, fact in enumerate(facts)]
    settings = SETTINGS.with_changes(target_steps=60, loss_threshold=0.0, clamp_factor=50.0)
    find = partial(exact_targets, exact_llama, requests, bare_contexts())
    full, early = find(settings), find(settings.with_changes(target_stop="argmax"))
    start = measure(exact_llama, requests, bare_contexts(), (), SETTINGS.layers[-1]).hidden
    for index, request in enumerate(requests):
        before, after, end = (z[:, index] - start[:, index] for z in (start, early, full))
        assert not likeliest(exact_llama, request, before)
        assert likeliest(exact_llama, request, after)
        assert after.norm() < 0.9 * end.norm()


def likeliest(model: LanguageModel, request: EditRequest, move: Tensor) -> bool:
    """Whether a change makes every token of the answer the likeliest."""
    (text,) = encode_edits(model.tokenizer, texts_in("{}", request))
    row, at = torch.tensor([0]), torch.tensor([text.subject_last])
    site = model.site(SETTINGS.layers[-1])
    with torch.no_grad(), added_states(site, (1, len(text.ids)), row, at, move[None]):
        logits = model.hf(torch.tensor([text.ids]), use_cache=False).logits[0]
    return logits[text.target_start - 1 : -1].argmax(-1).tolist() == list(text.target_ids)
