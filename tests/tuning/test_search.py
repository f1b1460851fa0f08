"""What is tried, and what is chosen."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest

from collabedit.editors import Hyperparameters, resolve_editor
from collabedit.evaluation import CaseResult
from collabedit.tuning.causal_tracing import CausalTrace
from collabedit.tuning.search import (
    Trial,
    best_of,
    gain,
    layer_ranges,
    target_settings,
    weights,
)

BASE = Hyperparameters(layers=(5, 6, 7), target_steps=25)


def traced(mlp: list[float], window: int) -> CausalTrace:
    layers = [0.0] * (len(mlp) + window - 1)
    return CausalTrace(1, 1, 1, 0.1, window, 0.5, 0.1, layers, layers, mlp, [0.0] * len(mlp))


def case(number: int, rewrite: bool, paraphrase: bool, neighbours: list[bool]) -> CaseResult:
    def losses(first_is_likelier: bool, first: str, second: str) -> Any:
        return {first: 1.0, second: 2.0 if first_is_likelier else 0.5}

    return {
        "case_id": number,
        "kind": "counterfact",
        "rewrite_prompts_probs": [losses(rewrite, "target_new", "target_true")],
        "paraphrase_prompts_probs": [losses(paraphrase, "target_new", "target_true")],
        "neighborhood_prompts_probs": [
            losses(kept, "target_true", "target_new") for kept in neighbours
        ],
    }


def test_ranges_are_separate_windows_of_large_effect() -> None:
    found = layer_ranges(traced([0.3, 0.31, 0.1, 0.2, 0.5, 0.4], window=3))
    assert found == [(4, 5, 6), (1, 2, 3)]  # no other begins two layers from both
    assert layer_ranges(traced([0.1, 0.2], window=2)) == [(1, 2)]
    rising = [float(effect) for effect in range(20)]
    assert [layers[0] for layers in layer_ranges(traced(rising, window=5))] == [19, 17, 15, 13]


def test_other_targets_differ_in_clamp_or_steps_and_come_in_the_seeds_order() -> None:
    found = target_settings(BASE, (1, 2, 3), seed=4)
    kinds = {(each.clamp_factor, each.target_steps) for each in found}
    clamps, steps = (0.5, 0.75, 1.0), (15, 25, 40)
    assert kinds == {(c, s) for c in clamps for s in steps} - {(0.75, 25)}
    assert len(found) == len(kinds)
    assert {each.layers for each in found} == {(1, 2, 3)}
    assert target_settings(BASE, (1, 2, 3), seed=4) == found
    assert target_settings(BASE, (1, 2, 3), seed=5) != found


@pytest.mark.parametrize(
    ("editor", "name", "expected"),
    [
        ("MEMIT", "prior_weight", [1500.0, 150.0, 15000.0]),
        ("AlphaEdit", "null_space_weight", [10.0, 1.0, 100.0]),
        ("EMMET", "prior_weight", [1500.0]),
    ],
)
def test_weights_are_those_of_the_editors_prior(
    editor: str, name: str, expected: list[float]
) -> None:
    rules = resolve_editor(editor)
    assert rules.weight_setting == name
    found = weights(BASE, rules)
    assert found[0] == BASE
    assert [getattr(each, name) for each in found] == expected


def test_the_best_has_the_highest_score_and_of_equal_ones_the_smallest_update() -> None:
    good, bad = [case(0, True, True, [True])], [case(0, True, False, [True])]
    trials = [Trial(BASE, bad, 0.1), Trial(BASE, good, 0.3), Trial(BASE, good, 0.2)]
    assert [trial.score for trial in trials] == [0.0, 100.0, 100.0]
    assert best_of(trials) is trials[2]


def test_the_gains_error_is_the_jackknifes() -> None:
    """By hand: ES 100 in both, NS 100 in both; PS 3 of 4 against 2 of 4."""
    hits = [(True, True), (True, False), (True, True), (False, False)]
    new, old = (
        Trial(BASE, [case(n, True, hit[which], [True]) for n, hit in enumerate(hits)], 0.1)
        for which in (0, 1)
    )

    def score(part: float) -> float:
        return 3 / (1 / 100 + 1 / 100 + 1 / (100 * part))

    found, error = gain(new, old)
    assert found == pytest.approx(score(3 / 4) - score(2 / 4))
    parts = [
        score(2 / 3) - score(1 / 3),
        score(2 / 3) - score(2 / 3),
        score(2 / 3) - score(1 / 3),
        score(3 / 3) - score(2 / 3),
    ]
    expected = math.sqrt(3 / 4 * sum((part - fmean(parts)) ** 2 for part in parts))
    assert error == pytest.approx(expected)
    assert gain(old, old) == (0.0, 0.0)
    single = Trial(BASE, new.cases[:1], 0.1)
    assert gain(single, single) == (0.0, 0.0)


def test_many_records_are_left_out_in_groups() -> None:
    cases = [case(n, True, n % 3 > 0, [n % 7 > 0]) for n in range(120)]
    other = [case(n, True, n % 5 > 0, [n % 7 > 0]) for n in range(120)]
    found, error = gain(Trial(BASE, cases, 0.1), Trial(BASE, other, 0.1))
    assert found < 0
    assert 0 < error < 10
