"""Steps after merging, against the official code and against their documented properties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError, UnknownNameError
from collabedit.merging import (
    AfterMergeStep,
    after_merge,
    after_merges,
    apply_steps,
    prune,
    rect,
    resolve_after_merge,
    sphere,
)
from tests.algebra.test_algebra import random, relative

OFFICIAL = {
    name: value.double()
    for name, value in load_file(
        Path(__file__).parents[1] / "fixtures" / "after_merge" / "steps.safetensors"
    ).items()
}
WEIGHT = OFFICIAL["weight"]
LARGE = LowRankUpdate(OFFICIAL["left"], OFFICIAL["right"])
SMALL = LowRankUpdate(OFFICIAL["left"] / 10, OFFICIAL["right"])
#: Tolerance for the official values, which were computed in float32.
FLOAT32 = 1e-6


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("rect", lambda: rect(SMALL, WEIGHT, keep=0.2)),
        ("prune", lambda: prune(LARGE, WEIGHT)),
        ("prune_1.2", lambda: prune(LARGE, WEIGHT, base=1.2)),
        ("sphere", lambda: sphere(SMALL, WEIGHT)),
        ("sphere_alpha_edit", lambda: sphere(SMALL, WEIGHT, strength=0.5)),
        ("rect_sphere", lambda: sphere(LowRankUpdate.from_dense(OFFICIAL["rect_40"]), WEIGHT)),
    ],
)
def test_steps_equal_the_official_code(name: str, made: Callable[[], LowRankUpdate]) -> None:
    assert relative(made().dense(), OFFICIAL[name]) < FLOAT32


def test_rect_keeps_one_entry_less_than_the_code_of_sphere() -> None:
    """That code also keeps the largest of the entries to drop."""
    ours, theirs = rect(SMALL, WEIGHT).dense() != 0, OFFICIAL["rect_40"] != 0
    assert int(ours.sum()) == int(0.4 * WEIGHT.numel())
    assert int((ours != theirs).sum()) == 1
    assert not (ours & ~theirs).any()


def test_rect_keeps_the_largest_relative_changes() -> None:
    kept = rect(SMALL, WEIGHT, keep=0.1).dense()
    change = SMALL.dense()
    ratio = (change / WEIGHT).abs()
    assert torch.equal(kept[kept != 0], change[kept != 0])
    assert ratio[kept != 0].min() > ratio[kept == 0].max()


def test_rect_ranks_a_changed_zero_first_and_an_unchanged_one_last() -> None:
    weight, change = torch.ones(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    weight[0, 0] = weight[1, 1] = change[1, 1] = 0.0
    kept = rect(LowRankUpdate.from_dense(change), weight, keep=0.25).dense()
    assert kept.tolist() == [[1.0, 0.0], [0.0, 0.0]]


@given(rank=st.integers(1, 40), size=st.floats(0.01, 30.0), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_prune_restrains_the_singular_values_above_the_weights(
    rank: int, size: float, seed: int
) -> None:
    update = LowRankUpdate(random(20, rank, seed=seed), size * random(rank, 30, seed=seed + 1))
    most = torch.linalg.svdvals(WEIGHT)[0]
    before = torch.linalg.svdvals(update.dense())
    found = prune(update, WEIGHT)
    after = torch.linalg.svdvals(found.dense())
    expected = torch.where(before >= most, most + (before / most).log(), before)
    assert relative(after, expected) < 1e-12
    assert found.left.shape[1] <= rank
    assert (found is update) == bool(before[0] < most)


@given(energy=st.floats(0.01, 1.0), strength=st.floats(0.01, 1.0))
@settings(max_examples=25, deadline=None)
def test_sphere_damps_the_principal_directions_and_nothing_else(
    energy: float, strength: float
) -> None:
    """By the eigenvectors of the rows' second moment, an independent way to find them."""
    rows = WEIGHT / WEIGHT.norm(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(rows.mT @ rows)
    shares = values.flip(0).cumsum(0) / values.sum()
    found = sphere(SMALL, WEIGHT, energy=energy, strength=strength)
    assert found.left.shape == SMALL.left.shape
    if bool(((shares - energy).abs() < 1e-9).any()):  # rounding errors decide on a direction
        return
    count = min(int((shares <= energy).sum()) + 1, len(rows))
    main = vectors[:, -count:]
    expected = SMALL.dense() @ (torch.eye(30) - strength * main @ main.mT)
    assert relative(found.dense(), expected) < 1e-9


def test_at_full_strength_sphere_leaves_what_the_weight_maps_alone() -> None:
    found = sphere(SMALL, WEIGHT, energy=1.0, strength=1.0)
    assert float((found.dense() @ WEIGHT.mT).norm() / (SMALL.dense() @ WEIGHT.mT).norm()) < 1e-12


def test_sphere_takes_a_row_of_zeros() -> None:
    weight = WEIGHT.clone()
    weight[3] = 0.0
    assert torch.isfinite(sphere(SMALL, weight).dense()).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RECT:keep=0", "RECT: keep must be above 0 and at most 1, found 0"),
        ("RECT:keep=1.5", "RECT: keep must be above 0"),
        ("PRUNE:base=1", "PRUNE: base must be above 1, found 1"),
        ("SPHERE:energy=0", "SPHERE: energy must be above 0"),
        ("SPHERE:strength=2", "SPHERE: strength must be above 0 and at most 1, found 2"),
    ],
)
def test_options_out_of_range_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AfterMergeStep.parse(text).apply(SMALL, WEIGHT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RECT:share=0.2", "RECT has no option 'share'; its options: keep"),
        ("RECT:keep", "--after-merge RECT:keep: cannot read 'keep'; write it like keep=0.1"),
        ("RECT:keep=much", "RECT: keep must be of type float, found 'much'"),
        ("RECT:keep=nan", "RECT: keep must be finite"),
    ],
)
def test_malformed_steps_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AfterMergeStep.parse(text)


def test_an_unknown_step_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="PRUNE, RECT, SPHERE"):
        AfterMergeStep.parse("SPHRE")


def test_a_step_is_read_in_any_case_with_all_its_options() -> None:
    step = AfterMergeStep.parse("sphere:strength=0.5")
    assert step == AfterMergeStep(name="SPHERE", options={"energy": 0.5, "strength": 0.5})
    assert str(step) == "SPHERE (energy = 0.5, strength = 0.5)"
    assert AfterMergeStep.model_validate_json(step.model_dump_json()) == step


def test_steps_are_applied_in_the_given_order() -> None:
    steps = [AfterMergeStep.parse(text) for text in ("RECT", "SPHERE")]
    found = apply_steps(steps, {"w": SMALL}, {"w": WEIGHT.float()})["w"]
    expected = sphere(rect(SMALL, WEIGHT), WEIGHT)
    assert relative(found.dense(), expected.dense()) < 1e-12
    other = apply_steps(steps[::-1], {"w": SMALL}, {"w": WEIGHT})["w"]
    assert relative(other.dense(), expected.dense()) > 1e-3


def test_prune_takes_all_changes_since_the_unedited_model() -> None:
    earlier = LowRankUpdate(random(20, 2, seed=7), random(2, 30, seed=8))
    now = WEIGHT + earlier.dense()
    total = LowRankUpdate.sum([earlier, LARGE])
    found = AfterMergeStep.parse("PRUNE").apply(LARGE, now, earlier)
    expected = prune(total, WEIGHT).dense()
    assert relative(earlier.dense() + found.dense(), expected) < 1e-12


def test_prune_returns_a_change_without_large_singular_values_unchanged() -> None:
    earlier = LowRankUpdate(1e-3 * random(20, 2, seed=7), random(2, 30, seed=8))
    now = WEIGHT + earlier.dense()
    assert AfterMergeStep.parse("PRUNE").apply(SMALL, now, earlier) is SMALL


def test_other_steps_take_what_the_round_merged() -> None:
    earlier = LowRankUpdate(random(20, 2, seed=7), random(2, 30, seed=8))
    found = AfterMergeStep.parse("SPHERE").apply(SMALL, WEIGHT, earlier)
    assert torch.equal(found.dense(), sphere(SMALL, WEIGHT).dense())


@pytest.mark.usefixtures("own_registries")
def test_a_custom_step_is_registered_with_its_options() -> None:
    @after_merge("Half")
    def half(update: LowRankUpdate, weight: Tensor, *, factor: float = 0.5) -> LowRankUpdate:
        """A part of the change."""
        return LowRankUpdate(factor * update.left, update.right)

    assert resolve_after_merge("half").summary == "A part of the change."
    assert "Half" in [step.name for step in after_merges()]
    found = AfterMergeStep.parse("half:factor=0.25").apply(SMALL, WEIGHT)
    assert relative(found.dense(), 0.25 * SMALL.dense()) < 1e-14


@pytest.mark.usefixtures("own_registries")
def test_options_must_be_declared_in_full() -> None:
    with pytest.raises(TypeError, match="declare the option factor with a default"):

        @after_merge("Half")
        def half(update: LowRankUpdate, weight: Tensor, *, factor: float) -> LowRankUpdate:
            return update
