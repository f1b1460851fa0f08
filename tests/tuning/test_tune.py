"""A whole search on a tiny model: what it tries, that it resumes, and its results."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from collabedit.covariance import SelfCorpus, collect, default_covariance
from collabedit.datasets import load_dataset
from collabedit.editors import Hyperparameters
from collabedit.errors import DatasetError, InputError
from collabedit.evaluation import evaluate, summarise
from collabedit.merging import resolve_method
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process
from collabedit.tuning import TuneSettings, causal_tracing, tune
from tests.experiments.studies import LAYERS, Tiny, load_summary

pytestmark = pytest.mark.slow  # all together

tune_module: Any = importlib.import_module("collabedit.tuning.tune")


@pytest.fixture(autouse=True)
def _knows_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model is certain of nothing."""
    monkeypatch.setattr(causal_tracing, "KNOWN_PROBABILITY", 0.0)


def settings_of(tiny: Tiny, **changes: Any) -> TuneSettings:
    values = {
        "model": str(tiny.folder / "model"),
        "dataset": str(tiny.folder / "facts.json"),
        "hyperparameters": Hyperparameters(layers=LAYERS, target_steps=3, prior_weight=5.0),
        "records": 3,
        "facts": 4,
        "draws": 2,
        "trials": 3,
        **changes,
    }
    return TuneSettings.checked(**values)


@pytest.fixture(scope="module")
def found(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_tracing, "KNOWN_PROBABILITY", 0.0)
        return tune(settings_of(tiny), tmp_path_factory.mktemp("results")).folder


def proposed(summary: dict[str, Any]) -> set[str]:
    """The layers that tracing proposes, as written in the rows."""
    ranges = summary["ranges"]
    assert len(ranges) > 0
    return {f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in ranges}


def test_tries_layers_then_targets_with_three_weights_each(found: Path) -> None:
    summary = load_summary(found)
    assert summary["experiment"] == "tune"
    rows = summary["methods"].values()
    kinds = {(row["layers"], row["clamp_factor"], row["target_steps"]) for row in rows}
    assert len(rows) == 9
    assert len(kinds) == 3
    assert {row["weight"] for row in rows} == {0.5, 5.0, 50.0}
    usual = {kind[0] for kind in kinds if kind[1:] == (0.75, 3)}
    assert usual == {"0-1", *proposed(summary)}
    (present,) = [name for name, row in summary["methods"].items() if row["present"]]
    assert present == "layers 0-1, lambda 5, clamp 0.75, 3 steps"
    assert summary["methods"][present]["gain"] == 0


def test_the_best_comes_first_and_is_the_preset(found: Path) -> None:
    summary = load_summary(found)
    order = [(-row["score"], row["update_norm"]) for row in summary["methods"].values()]
    assert order == sorted(order)
    assert len(set(order)) == len(order)
    best = next(iter(summary["methods"].values()))
    preset = Hyperparameters.from_file(found / "preset.json")
    assert f"{preset.layers[0]}-{preset.layers[-1]}" == best["layers"]
    assert preset.prior_weight == best["weight"]
    assert (preset.clamp_factor, preset.target_steps) == (
        best["clamp_factor"],
        best["target_steps"],
    )


def test_rows_match_editing_with_their_settings(found: Path, tiny: Tiny) -> None:
    """The best trial again, by the public functions."""
    summary, model = load_summary(found), tiny.model()
    records = load_dataset(tiny.folder / "facts.json")
    chosen = random.Random(0).sample(records, len(records))[:3]
    assert summary["unedited"] == summarise(evaluate(model, chosen))
    config = new_round(model, hyperparameters=Hyperparameters.from_file(found / "preset.json"))
    priors = static_priors(config, default_covariance(model, (0, 1, 2)))
    party = Party(model, [record.request for record in chosen], config)
    delta = run_in_process([party], Coordinator(config, priors, resolve_method("GLOBAL")))
    with model.edited(delta.changes):
        expected = summarise(evaluate(model, chosen))
    best = next(iter(summary["methods"].values()))
    for name, value in expected.items():
        assert best[name] == pytest.approx(value), name


def test_the_same_seed_finds_the_same(found: Path, tiny: Tiny, tmp_path: Path) -> None:
    again = tune(settings_of(tiny), tmp_path)
    assert (again.folder / "summary.json").read_bytes() == (found / "summary.json").read_bytes()
    other = load_summary(tune(settings_of(tiny, seed=1, trials=0), tmp_path).folder)
    assert other["trace"] != load_summary(found)["trace"]


@pytest.mark.parametrize("finished", [0, 4, 7])
def test_an_interrupted_search_is_continued(
    found: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    calls: list[int] = []
    original = tune_module._Bench._compute

    def stops(bench: Any, choice: Hyperparameters) -> Any:
        if len(calls) == finished:
            raise KeyboardInterrupt
        calls.append(1)
        return original(bench, choice)

    with monkeypatch.context() as patch:
        patch.setattr(tune_module._Bench, "_compute", stops)
        with pytest.raises(KeyboardInterrupt):
            tune(settings_of(tiny), tmp_path)
    computed: list[Hyperparameters] = []

    def counts(bench: Any, choice: Hyperparameters) -> Any:
        computed.append(choice)
        return original(bench, choice)

    monkeypatch.setattr(tune_module._Bench, "_compute", counts)
    monkeypatch.setattr(tune_module, "trace", None)  # finished before
    run = tune(settings_of(tiny), tmp_path)
    assert run.continued
    assert len(computed) == 9 - finished
    assert (run.folder / "summary.json").read_bytes() == (found / "summary.json").read_bytes()


def test_without_trials_it_only_traces(tiny: Tiny, tmp_path: Path) -> None:
    run = tune(settings_of(tiny, trials=0), tmp_path)
    summary = load_summary(run.folder)
    assert summary["methods"] == {}
    assert "preset" not in summary
    assert len(summary["trace"]["hidden"]) == 3
    assert not (run.folder / "preset.json").exists()


@pytest.mark.parametrize("editor", ["EMMET", "AlphaEdit", "ROME"])
def test_other_editors_are_tuned_too(tiny: Tiny, tmp_path: Path, editor: str) -> None:
    layers = LAYERS[:1] if editor == "ROME" else LAYERS
    present = Hyperparameters(layers=layers, target_steps=2, null_space_threshold=0.5)
    run = tune(settings_of(tiny, editor=editor, hyperparameters=present, trials=2), tmp_path)
    summary = load_summary(run.folder)
    rows = summary["methods"].values()
    tried = {row["layers"] for row in rows}
    assert ("0" if editor == "ROME" else "0-1") in tried
    assert tried & proposed(summary)
    weights = {row["weight"] for row in rows}
    assert weights == ({1.0, 10.0, 100.0} if editor == "AlphaEdit" else {1500.0})


def test_says_what_cannot_be_tuned(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="FT-L has no targets"):
        tune(settings_of(tiny, editor="FT-L"), tmp_path)
    with pytest.raises(DatasetError, match="41 records were asked for, but the data set has 40"):
        tune(settings_of(tiny, records=41), tmp_path)
    facts = [{**fact, "neighborhood_prompts": []} for fact in tiny.raw_facts()]
    path = tiny.write_facts("no-neighbours.json", facts)
    with pytest.raises(InputError, match=r"case \d+ has no paraphrase, no neighbourhood prompt"):
        tune(settings_of(tiny, dataset=str(path)), tmp_path)
    with pytest.raises(InputError, match="records"):
        settings_of(tiny, records=0)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(causal_tracing, "KNOWN_PROBABILITY", 1.1)
    with pytest.raises(InputError, match="knows none of the 40 true objects"):
        tune(settings_of(tiny), tmp_path)


def test_params_cover_everything_that_the_results_depend_on(found: Path) -> None:
    params = json.loads((found / "params.json").read_text())
    assert params["present"]["layers"] == list(LAYERS)
    assert params["settings"]["seed"] == 0
    assert {"model", "records", "covariance", "versions"} <= set(params)


def test_the_real_model(
    smollm2: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early and middle layers recall; the last ones only read out."""
    monkeypatch.undo()  # it does know something
    covariance = tmp_path / "covariance.safetensors"
    collect(smollm2, range(5, 10), SelfCorpus(0), tokens=2048, out=covariance)
    settings = TuneSettings(
        model=smollm2.name, records=2, facts=4, draws=2, trials=1, covariance=covariance
    )
    run = tune(settings, tmp_path)
    summary = load_summary(run.folder)
    traced = summary["trace"]
    assert traced["facts"] == 4
    assert traced["clean"] > causal_tracing.KNOWN_PROBABILITY
    assert traced["corrupted"] < traced["clean"] / 2
    assert sum(traced["hidden"][5:10]) > 5 * abs(sum(traced["hidden"][25:]))
    assert sum(traced["mlp"][:8]) > 5 * abs(sum(traced["mlp"][20:]))
    assert len(summary["methods"]) == 3
    assert all(row["ES"] == 100 for row in summary["methods"].values())
    assert Hyperparameters.from_file(run.folder / "preset.json").layers == (5, 6, 7, 8, 9)
