"""Which cheating a coordinator notices when it sees contributions."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from collabedit.algebra import Factors
from collabedit.errors import ContributionError
from collabedit.merging import resolve_method
from collabedit.messages import Contribution, Delta, RoundConfig, Schedule
from collabedit.models import LanguageModel
from collabedit.rounds import Coordinator
from collabedit.rounds.guards import outliers
from tests.rounds.test_round import make_parties, make_priors, make_round

NAMES = ("bank", "clinic", "hospital")


@pytest.fixture
def config(tiny_llama: LanguageModel) -> RoundConfig:
    return make_round(tiny_llama, Schedule.ONE_SHOT)


@pytest.fixture
def sent(tiny_llama: LanguageModel, config: RoundConfig) -> dict[str, Contribution]:
    parties = make_parties(tiny_llama, config)
    return {
        name: party.contribute(Delta.empty(config))
        for name, party in zip(NAMES, parties, strict=True)
    }


def scaled(sent: Contribution, keys: float, residuals: float) -> Contribution:
    return replace(
        sent,
        statistics={
            name: Factors(keys * part.keys, residuals * part.residuals)
            for name, part in sent.statistics.items()
        },
    )


def test_honest_parties_are_in_line(sent: dict[str, Contribution]) -> None:
    assert outliers(sent) == {}


@pytest.mark.parametrize(("keys", "residuals"), [(1000, 1), (1, 1000), (0.001, 1)])
def test_statistics_out_of_scale_are_named(
    sent: dict[str, Contribution], keys: float, residuals: float
) -> None:
    found = outliers({**sent, "clinic": scaled(sent["clinic"], keys, residuals)})
    assert list(found) == ["clinic"]
    assert "times as large as the median party's" in found["clinic"]
    two = {name: sent[name] for name in NAMES[:2]}
    assert outliers(two) == {}


def test_merging_warns_about_outliers_and_refuses_a_replay(
    sent: dict[str, Contribution], config: RoundConfig, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = Coordinator(config, make_priors(config), resolve_method("CollabEdit"))
    with pytest.raises(ContributionError, match="repeats the contribution of bank"):
        coordinator.merge({**sent, "clinic": sent["bank"]})
    with caplog.at_level(logging.WARNING):
        coordinator.merge({**sent, "clinic": scaled(sent["clinic"], 1000, 1000)})
    assert "clinic: " in caplog.text
    assert "look at it before you accept the delta" in caplog.text
