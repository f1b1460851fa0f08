"""A merge method, an editor, a metric and an export format of one's own, as CONTRIBUTING adds them.

Only public functions are used; the registries are put back afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path

import pytest
import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate, Prior, relative_distance
from collabedit.editing import measure
from collabedit.editors import Editor, PriorSpec, register_editor, resolve_editor
from collabedit.errors import UnknownNameError
from collabedit.evaluation import Metric, evaluate, register_metric, summarise
from collabedit.export import Base, ExportJob, export_format, resolve_format
from collabedit.merging import Merges, merge_method, resolve_method
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.reporting.tables import measured_columns
from collabedit.requests import Record
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process
from tests.cli.commands import collabedit
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.export.saving import load, original, random_delta
from tests.transports.test_in_process import SETTINGS, covariance_of

pytestmark = pytest.mark.usefixtures("own_registries")


@dataclass(frozen=True)
class RidgePrior(PriorSpec):
    weight: float

    def build(self, second_moment: Tensor) -> Prior:
        return Prior(self.weight * torch.eye(len(second_moment), dtype=torch.float64))


@pytest.fixture
def ridge() -> Editor:
    return register_editor(
        Editor("Ridge", "Least squares.", prior_spec=lambda s: RidgePrior(s.prior_weight))
    )


@pytest.fixture
def median() -> None:
    @merge_method("Median", Merges.UPDATES)
    def _median(updates: Sequence[LowRankUpdate], *, scale: float = 1.0) -> LowRankUpdate:
        """The median of the parties' own updates, entry by entry."""
        dense = torch.stack([update.dense() for update in updates])
        return LowRankUpdate.from_dense(scale * dense.median(dim=0).values)


@pytest.fixture
def certainty() -> Metric:
    return register_metric(
        Metric(
            "certainty",
            "P(new)",
            "mean probability of the new object, per token",
            values=lambda case: [exp(-e["target_new"]) for e in case["rewrite_prompts_probs"]],
        )
    )


@pytest.fixture
def names() -> None:
    @export_format("names", suffix=".txt")
    def _names(job: ExportJob, *, upper: bool = False) -> list[str]:
        """The names of the edited weights, a line each."""
        text = "\n".join(job.delta.changes)
        job.out.write_text(text.upper() if upper else text)
        return [f"{len(job.delta.changes)} names"]


def test_an_editor_and_a_method_of_ones_own(
    exact_llama: LanguageModel, ridge: Editor, median: None
) -> None:
    assert resolve_editor("RIDGE") is ridge
    config = new_round(
        exact_llama,
        editor="ridge",
        schedule="one-shot",
        hyperparameters=SETTINGS,
        contexts=CONTEXTS,
    )
    priors = static_priors(config, covariance_of(config))
    parties = [Party(exact_llama, [request], config) for request in REQUESTS[:3]]
    method = resolve_method("median")
    coordinator = Coordinator(config, priors, method, options={"scale": "2"})
    delta = run_in_process(parties, coordinator)
    assert (delta.metadata.editor, delta.metadata.method) == ("Ridge", "Median")
    assert delta.metadata.options == {"scale": 2.0}
    for layer, name in zip(config.layers, config.weight_names, strict=True):
        own = []
        for party in parties:
            now = measure(exact_llama, party.requests, CONTEXTS, [layer], config.layers[-1])
            key = now.keys[layer]
            residual = config.residual_share(layer) * (party.targets.double() - now.hidden)
            own.append(residual @ key.T / (SETTINGS.prior_weight + float(key.T @ key)))
        expected = 2 * torch.stack(own).median(dim=0).values
        found = delta.changes[name]
        assert relative_distance(found, LowRankUpdate.from_dense(expected)) < 1e-10


def test_a_metric_of_ones_own(exact_llama: LanguageModel, certainty: Metric) -> None:
    records = [Record(request) for request in REQUESTS[:2]]
    cases = evaluate(exact_llama, records)
    summary = summarise(cases)
    losses = [case["rewrite_prompts_probs"][0]["target_new"] for case in cases]
    assert summary["certainty"] == pytest.approx(50 * (exp(-losses[0]) + exp(-losses[1])))
    (column,) = (c for c in measured_columns([summary]) if c.key == "certainty")
    assert column.heading == "P(new)"


def test_an_export_format_of_ones_own(tmp_path: Path, names: None) -> None:
    source = original(tmp_path / "original", "llama")
    delta = random_delta(load(source))
    delta.save(tmp_path / "d.safetensors")
    out = tmp_path / "out.txt"
    found = resolve_format(None, out)
    assert found.export(ExportJob(Base.of(delta, str(source)), out), {"upper": True}) == [
        f"{len(delta.changes)} names"
    ]
    assert out.read_text().splitlines() == [name.upper() for name in delta.changes]


def test_the_command_line_and_its_errors_know_what_was_added(
    tmp_path: Path, ridge: Editor, median: None, names: None
) -> None:
    for resolve in (resolve_editor, resolve_method, lambda name: resolve_format(name, tmp_path)):
        with pytest.raises(UnknownNameError, match=r"Ridge|Median|names"):
            resolve("nothing of the kind")
    shown = json.loads(collabedit("models", "show", _saved(tmp_path), "-E", "ridge", "--json"))
    assert shown["editor"] == "Ridge"
    assert shown["editors"]["Ridge"] == "Least squares."


def _saved(folder: Path) -> Path:
    return original(folder / "shown", "llama")
