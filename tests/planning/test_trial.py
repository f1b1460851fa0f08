"""The trial of every stage."""

from __future__ import annotations

import pytest

from collabedit.models import LanguageModel
from collabedit.planning import STAGES, run_trial
from tests.planning.test_costs import REQUESTS, workload


def test_a_trial_measures_all_stages_and_warns_of_nothing(
    tiny_llama: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    """The tokens of a trial are too few for a covariance, which is of no interest there."""
    trial = run_trial(lambda: tiny_llama, workload(tiny_llama, REQUESTS), edits=1, tokens=16)
    assert set(trial.measured) == set(STAGES)
    assert all(measured.seconds > 0 for measured in trial.measured.values())
    assert not caplog.text
