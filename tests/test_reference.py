"""Stage by stage against values captured from the paper's own code and from the original MEMIT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from collabedit.algebra import Prior, compress, solve
from collabedit.editing import measure, optimise_targets
from collabedit.editors import Hyperparameters, load_contexts
from collabedit.merging import collab_edit, pooled, resolve_method, simple_average, ties
from collabedit.messages import RoundState, Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round
from collabedit.requests import EditRequest, load_records
from collabedit.rounds import Coordinator, dynamic_priors
from collabedit.transports import run_in_process
from tests.conftest import float64_throughout

PARTIES = [slice(5 * i, 5 * i + 5) for i in range(4)]

#: Two float64 solutions can differ by the condition number, 4e5 and less, times ``2^-53`` each.
SOLVED = 1e-10


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


class Captured:
    """The folder's values and the model they belong to.

    The original computed in float32. Here the model computes in float64, so that a comparison sees
    the rounding of the original alone, which no longer changes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model: LanguageModel = load_model(str(folder / "model"), dtype="float64", device="cpu")
        self.settings = Hyperparameters.from_file(folder / "hparams.json")
        self.contexts = load_contexts(folder / "context_templates.json")
        self.requests: list[EditRequest] = [
            record.request for record in load_records(folder / "records.json")
        ]
        self.weights = self.model.weight_names(self.settings.layers)

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def priors(self) -> dict[str, Prior]:
        moments = self.tensors("cov")
        weight = self.settings.prior_weight
        return {w: Prior.from_second_moment(moments[f"C.{w}"], weight) for w in self.weights}


@pytest.fixture(scope="module")
def captured(reference: Path) -> Captured:
    return Captured(reference)


def test_the_requests_are_those_of_the_original(captured: Captured) -> None:
    stored = json.loads((captured.folder / "requests.json").read_text())["requests"]
    assert [r.case_id for r in captured.requests] == [r["case_id"] for r in stored]


def test_keys_and_hidden_states(captured: Captured) -> None:
    layers = captured.settings.layers
    with float64_throughout():
        measured = measure(captured.model, captured.requests, captured.contexts, layers, layers[-1])
    keys = captured.tensors("keys")
    for layer, name in zip(layers, captured.weights, strict=True):
        assert relative(measured.keys[layer], keys[f"K.{name}"]) < 1e-6
    assert relative(measured.hidden.T, captured.tensors("z")["cur_z"]) < 1e-6


@pytest.mark.slow
def test_targets(captured: Captured) -> None:
    stored = captured.tensors("z")
    with float64_throughout():
        targets = optimise_targets(
            captured.model, captured.requests, captured.contexts, captured.settings, quick=False
        )
    moved = (stored["z"] - stored["cur_z"]).norm(dim=1)
    assert ((targets.T - stored["z"]).norm(dim=1) / moved).max() < 2e-5


def test_merging_from_the_captured_statistics(captured: Captured) -> None:
    statistics, merged = captured.tensors("keys"), captured.tensors("merged")
    own = captured.tensors("client_deltas")
    for name, prior in captured.priors().items():
        keys, residuals = statistics[f"K.{name}"], statistics[f"R.{name}"]
        parties = [compress(keys[:, part], residuals[:, part]) for part in PARTIES]
        updates = [solve(party, prior) for party in parties]
        everything = pooled([compress(keys, residuals)], prior)
        assert relative(everything.dense(), merged[f"GLOBAL.{name}"]) < SOLVED
        assert relative(collab_edit(parties, prior).dense(), merged[f"CollabEdit.{name}"]) < SOLVED
        for index, update in enumerate(updates):
            assert relative(update.dense(), own[f"client{index}.{name}"]) < SOLVED
        # The original divides by ten, though there are four parties.
        average = simple_average(updates).dense() * len(PARTIES) / 10
        assert relative(average, merged[f"SA.{name}"]) < SOLVED
        assert relative(ties(updates).dense(), merged[f"TIES_intended.{name}"]) < SOLVED


def test_the_dynamic_covariance_of_a_second_round(captured: Captured) -> None:
    """``lambda C + lambda K0 K0^T + K1 K1^T``: in the paper's code ``beta`` is ``lambda``.

    That code never forms it for CollabEdit (it compares the method's name with another one), but
    for a single party, whose values these are.
    """
    stored, static = captured.tensors("multiround_global"), captured.priors()
    weight = captured.settings.prior_weight
    first = {w: compress(stored[f"round0.K.{w}"], stored[f"round0.R.{w}"]) for w in static}
    state = RoundState().after(
        {w: pooled([factors], static[w]) for w, factors in first.items()},
        {w: factors.keys for w, factors in first.items()},
    )
    priors = dynamic_priors(static, state.keys, weight)
    for name, prior in static.items():
        keys, residuals = stored[f"round1.K.{name}"], stored[f"round1.R.{name}"]
        expected = stored[f"round1.delta.{name}"]
        parties = [compress(keys[:, part], residuals[:, part]) for part in PARTIES]
        by_hand = solve(compress(keys, residuals), prior.updated(first[name].keys, weight))
        assert relative(by_hand.dense(), expected) < SOLVED
        assert relative(collab_edit(parties, priors[name]).dense(), expected) < SOLVED
        assert relative(pooled([compress(keys, residuals)], prior).dense(), expected) > 1e-3
        merged = captured.tensors("merged")[f"GLOBAL.{name}"]
        assert relative(state.changes[name].dense(), merged) < SOLVED


@pytest.mark.parametrize("schedule", list(Schedule))
def test_rounds_from_the_captured_targets(captured: Captured, schedule: Schedule) -> None:
    config = new_round(
        captured.model,
        schedule=schedule,
        hyperparameters=captured.settings,
        contexts=captured.contexts,
    )
    targets = captured.tensors("z")["z"].T
    parties = [
        Party(captured.model, captured.requests[part], config, targets=targets[:, part])
        for part in PARTIES
    ]
    coordinator = Coordinator(config, captured.priors(), resolve_method("CollabEdit"))
    with float64_throughout():
        delta = run_in_process(parties, coordinator)
    if schedule is Schedule.LAYERWISE:
        expected = load_file(captured.folder / "memit" / "memit.safetensors")
        expected = {name: expected[f"delta.{name}"] for name in captured.weights}
    else:
        merged = captured.tensors("merged")
        expected = {name: merged[f"GLOBAL.{name}"] for name in captured.weights}
    for name, update in delta.changes.items():
        assert relative(update.dense(), expected[name]) < 5e-6
