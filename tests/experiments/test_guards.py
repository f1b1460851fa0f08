"""What a guard of several rounds warns about, and when."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collabedit.algebra import LowRankUpdate
from collabedit.editors import Hyperparameters, resolve_editor
from collabedit.experiments.guards import Advice, Guard, RoundSeen, relative_norm
from collabedit.merging import resolve_method
from collabedit.reporting.results import RunResult
from collabedit.reporting.tables import tables_of
from tests.algebra.test_algebra import random

SETTINGS = Hyperparameters(layers=(0,))
ADVICE = Advice.of(resolve_editor("MEMIT"), SETTINGS, resolve_method("TA"))
USUAL = RoundSeen(change=0.1, total=0.2, perplexity=20.0, first_score=80.0)


def watched(*rounds: RoundSeen, perplexity: float | None = 20.0) -> list[tuple[int, str]]:
    guard = Guard("CollabEdit", ADVICE, perplexity)
    for seen in rounds:
        guard.see(seen)
    return [(warning.round, warning.measure) for warning in guard.warnings]


@given(
    rounds=st.lists(
        st.builds(
            RoundSeen,
            change=st.floats(0.1, 0.29),
            total=st.floats(0.0, 1.0),
            perplexity=st.floats(1.0, 24.0),
            first_score=st.floats(90.0, 100.0),
        )
    )
)
def test_no_warning_within_the_ranges(rounds: list[RoundSeen]) -> None:
    assert watched(*rounds) == []


@pytest.mark.parametrize(
    ("seen", "measure"),
    [
        (RoundSeen(0.31, 0.2, 20.0, 80.0), "change"),
        (RoundSeen(0.1, 1.1, 20.0, 80.0), "total"),
        (RoundSeen(0.1, 0.2, 24.1, 80.0), "perplexity"),
        (RoundSeen(0.1, 0.2, float("inf"), 80.0), "perplexity"),
        (RoundSeen(0.1, 0.2, float("nan"), 80.0), "perplexity"),
        (RoundSeen(0.1, 0.2, 20.0, 71.9), "first_score"),
        (RoundSeen(0.1, 0.2, 20.0, float("nan")), "first_score"),
    ],
)
def test_each_measures_warning_is_one_line_with_a_remedy(
    seen: RoundSeen, measure: str, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard("TA", ADVICE, 20.0)
    with caplog.at_level(logging.WARNING):
        assert guard.see(USUAL) == []
        (warning,) = guard.see(seen)
    assert (warning.round, warning.measure) == (2, measure)
    assert not (warning.value <= warning.limit) or measure == "first_score"
    (line,) = caplog.messages
    assert line == f"TA, after round 2: {warning.message}"
    assert "\n" not in line
    assert (ADVICE.kept if measure == "first_score" else ADVICE.smaller) in line


@pytest.mark.parametrize(
    ("editor", "method", "smaller", "kept"),
    [
        ("MEMIT", "CollabEdit", "raise prior_weight", "raise --beta"),
        ("AlphaEdit", "CollabEdit", "raise null_space_weight", "raise --beta"),
        ("EMMET", "GLOBAL", "lower clamp_factor", "raise --beta"),
        ("UltraEdit", "TA", "lower gradient_rate", "merge by CollabEdit"),
        ("LocFT-BF", "GLOBAL", "lower ft_learning_rate", "choose an editor"),
    ],
)
def test_advice_names_settings_that_the_editor_has(
    editor: str, method: str, smaller: str, kept: str
) -> None:
    advice = Advice.of(resolve_editor(editor), SETTINGS, resolve_method(method))
    assert smaller in advice.smaller
    assert kept in advice.kept


def test_an_editor_with_relaxed_equality_depends_on_the_priors_weight() -> None:
    relaxed = SETTINGS.with_changes(equality_ridge=0.1)
    advice = Advice.of(resolve_editor("EMMET"), relaxed, resolve_method("CollabEdit"))
    assert "raise prior_weight" in advice.smaller


def test_a_measure_outside_its_range_is_reported_once_per_exit() -> None:
    high = RoundSeen(0.1, 0.2, 30.0, 80.0)
    assert watched(USUAL, high, high, USUAL, high) == [(2, "perplexity"), (5, "perplexity")]


def test_rounds_without_measurements_are_no_return_to_the_range() -> None:
    low = RoundSeen(0.1, 0.2, 30.0, 10.0)
    unmeasured = RoundSeen(0.1, 0.2)
    found = watched(USUAL, low, unmeasured, low, USUAL, unmeasured, low)
    assert found == [(2, "perplexity"), (2, "first_score"), (7, "perplexity"), (7, "first_score")]


def test_a_round_is_compared_with_the_median_of_those_before() -> None:
    """So that one large round does not hide the next."""
    large = RoundSeen(0.5, 0.2, 20.0, 80.0)
    assert watched(USUAL, USUAL, large, USUAL, large) == [(3, "change"), (5, "change")]
    assert watched(large, USUAL, USUAL) == []
    nobody = RoundSeen(0.0, 0.0, 20.0, 80.0)
    assert watched(nobody, USUAL) == []


def test_unmeasured_values_are_not_watched() -> None:
    seen = RoundSeen(0.1, 0.2)
    assert watched(seen, RoundSeen(0.1, 0.2, 50.0, 1.0), perplexity=None) == []
    assert watched(RoundSeen(0.1, 0.2, 50.0), seen) == [(1, "perplexity")]


def test_the_norm_is_the_largest_over_weights_of_what_was_added() -> None:
    weights = {name: random(4, 6, seed=seed).float() for name, seed in (("a", 1), ("b", 2))}
    now, before = (
        {name: LowRankUpdate(random(4, 2, seed=s), random(2, 6, seed=s + 1)) for name in weights}
        for s in (3, 5)
    )
    added = now["a"].dense() - before["a"].dense()
    expected = max(float(torch.linalg.norm(added) / w.double().norm()) for w in weights.values())
    assert relative_norm(now, weights, before) == pytest.approx(expected, rel=1e-12)
    total = max(float(now["a"].dense().norm() / w.double().norm()) for w in weights.values())
    assert relative_norm(now, weights) == pytest.approx(total, rel=1e-12)
    assert relative_norm({}, {}) == 0.0


def test_warnings_are_typed_and_have_their_own_table() -> None:
    guard = Guard("TA", ADVICE, 20.0)
    guard.see(USUAL)
    (warning,) = guard.see(RoundSeen(0.1, 0.2, 99.0, 80.0))
    metrics = {"records": 2, "score": 80.0}
    made = {
        "experiment": "multi-round",
        "methods": {"TA": metrics},
        "rounds": {"TA": [[metrics]]},
        "warnings": {"TA": guard.warnings},
    }
    result = RunResult.of(made)
    assert RunResult.of(result.summary()) == result
    assert result.summary()["warnings"] == {"TA": [warning.model_dump()]}
    *_, table = tables_of(result, "run")
    assert table.title == "Early warnings"
    assert warning.message in table.markdown()
    del made["warnings"]
    assert "Early warnings" not in [each.title for each in tables_of(RunResult.of(made), "run")]
