from __future__ import annotations

import weakref

import pytest
import torch

from collabedit.algebra import Prior, relative_distance
from collabedit.editors import editors
from collabedit.merging import resolve_method
from collabedit.messages import RoundConfig, RoundState
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.rounds import Coordinator, Priors, dynamic_priors, priors_at_once, static_priors
from collabedit.transports import run_in_process
from tests.conftest import make_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.rounds.test_round import SETTINGS
from tests.transports.test_in_process import covariance_of


def prior_of(name: str) -> Prior:
    return Prior(float(name) * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("held", [0, 1, 2])
def test_no_more_priors_are_held_than_allowed(held: int) -> None:
    made: list[weakref.ref[Prior]] = []

    def make(name: str) -> Prior:
        prior = prior_of(name)
        made.append(weakref.ref(prior))
        return prior

    priors = Priors("1234", make, held)
    for name in priors:
        assert torch.equal(priors[name].matrix, prior_of(name).matrix)
        assert sum(prior() is not None for prior in made) <= held


def test_all_priors_are_held_by_default() -> None:
    priors = Priors("12", prior_of)
    assert all(priors[name] is priors[name] for name in "12")
    assert dict(priors).keys() == {"1", "2"}
    with pytest.raises(KeyError):
        priors["3"]


def test_half_the_budget_decides_how_many_priors_fit() -> None:
    each = 16 * 100**2
    assert priors_at_once(100, None) is None
    assert priors_at_once(100, 1) == 0
    assert priors_at_once(100, 2 * 4 * each) == 3


def test_the_next_rounds_priors_are_held_the_same_way() -> None:
    keys = {"1": torch.ones(3, 1, dtype=torch.float64)}
    following = dynamic_priors(Priors("12", prior_of, 0), RoundState(keys=keys).keys, 2.0)
    assert following.held == 0
    expected = torch.eye(3, dtype=torch.float64) + 2.0
    torch.testing.assert_close(following["1"].dense(), expected)
    assert torch.equal(following["2"].dense(), prior_of("2").dense())


@pytest.fixture(scope="module")
def model(exact_module: None) -> LanguageModel:
    return make_model("llama")


@pytest.mark.parametrize("editor", [each.name for each in editors() if each.at_once])
def test_a_tight_budget_gives_the_same_update(model: LanguageModel, editor: str) -> None:
    settings = SETTINGS.with_changes(null_space_threshold=1e3)
    config: RoundConfig = new_round(
        model, editor=editor, hyperparameters=settings, contexts=CONTEXTS
    )
    covariance = covariance_of(config)
    free, tight = (
        run_in_process(
            [Party(model, REQUESTS[:2], config)],
            Coordinator(
                config, static_priors(config, covariance, budget), resolve_method("GLOBAL")
            ),
        )
        for budget in (None, 1)
    )
    for name, change in free.changes.items():
        assert relative_distance(tight.changes[name], change) < 1e-12
