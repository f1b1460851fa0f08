"""Which demonstration is chosen, and that the reason is given."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from collabedit.editing import default_contexts
from collabedit.editing.target_texts import Beginnings, fact_texts, kept_texts
from collabedit.editors import target_weights
from collabedit.experiments.demo import FULL, SMALL
from collabedit.experiments.study import deal, different_records
from collabedit.models import load_model
from collabedit.planning import STAGES, demonstration
from collabedit.planning.demonstration import MOST_SECONDS, TEXTS, demonstration_for

#: Roughly what an idle core of a recent server does, in operations and bytes per second.
RATES: Mapping[str, float] = dict.fromkeys(STAGES, 5e10)


def with_rates(monkeypatch: pytest.MonkeyPatch, factor: float) -> list[Any]:
    """Make the trial find a machine ``factor`` times as fast; returns the list of what is tried."""
    tried: list[Any] = []

    def trial(_load: Any, work: Any, **options: Any) -> Any:
        tried.append((work, options))
        return SimpleNamespace(rates={stage: rate * factor for stage, rate in RATES.items()})

    monkeypatch.setattr(demonstration, "run_trial", trial)
    return tried


def seconds_of(settings: Any, factor: float = 1.0) -> float:
    structure, shape = demonstration._model()
    work = demonstration._workload(settings, structure, shape)
    rates = {stage: rate * factor for stage, rate in RATES.items()}
    return demonstration.expected_seconds(settings, work, shape, rates)


@pytest.fixture(autouse=True)
def _built_in() -> None:
    pytest.importorskip("transformers")


def test_a_fast_machine_gets_the_full_demonstration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = with_rates(monkeypatch, 100.0)
    assert demonstration_for() is FULL
    ((work, options),) = tried
    assert work.hyperparameters.target_steps < 10  # so that the trial itself is short
    assert options["saving"] is False
    assert "smaller" not in capsys.readouterr().err


def test_a_slow_machine_gets_the_small_one_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_rates(monkeypatch, 0.01)
    assert demonstration_for() is SMALL
    said = capsys.readouterr().err
    assert "The full demonstration would take about" in said
    assert "collabedit demo --full" in said


def test_the_limit_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = seconds_of(FULL) / MOST_SECONDS
    with_rates(monkeypatch, 1.01 * exact)
    assert demonstration_for() is FULL
    with_rates(monkeypatch, 0.99 * exact)
    assert demonstration_for() is SMALL


def test_time_is_inversely_proportional_to_the_rates() -> None:
    assert seconds_of(FULL, 4.0) == pytest.approx(seconds_of(FULL) / 4)
    assert seconds_of(SMALL) < seconds_of(FULL) / 2


@pytest.mark.slow
def test_the_texts_are_as_long_as_assumed() -> None:
    model = load_model(FULL.model)
    (shares,) = deal(FULL)
    beginnings = Beginnings([record.request for record in different_records(shares)])
    contexts = default_contexts(model, FULL.seed)
    facts = [
        text
        for each in target_weights(contexts)
        for text in fact_texts(model.tokenizer, *each, beginnings)
    ]
    kept = [text for own in kept_texts(model.tokenizer, contexts, beginnings) for text in own]
    edits = len(beginnings.requests)
    texts = edits * (1 + TEXTS.contexts)
    suffix = sum(text.length for text in [*facts, *kept])
    read = sum(len(text.predicting) for text in [*facts, *kept])
    assert texts * TEXTS.suffix + edits == pytest.approx(suffix, rel=0.02)
    assert texts * TEXTS.target + edits == pytest.approx(read, rel=0.02)
