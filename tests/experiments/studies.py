"""Studies small enough for tests, and their results by hand in dense float64."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collabedit.covariance import collect, file_corpus
from collabedit.editing import measure, optimise_targets
from collabedit.editors import Hyperparameters
from collabedit.evaluation import CaseResult
from collabedit.experiments import Run
from collabedit.messages import Covariance, RoundConfig, RoundState, Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.requests import EditRequest
from tests.conftest import CORPUS, EXACT, make_model, save_model

__all__ = [
    "Tiny",
    "assert_alike",
    "dense_round",
    "dense_update",
    "found_targets",
    "key_moment",
    "load_summary",
    "relative",
    "rounds_of",
    "totals_of",
    "written",
]

LAYERS = (0, 1)
PRIOR_WEIGHT = 5.0


@dataclass(frozen=True)
class Tiny:
    """A folder with a tiny model, its covariances and forty facts with three prompts each."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> Tiny:
        """Make the folder's files."""
        model = make_model("llama", num_hidden_layers=3)
        save_model(model, folder / "model")
        (folder / "corpus.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
        (folder / "heldout.txt").write_text("The capital of Italy is Rome. " * 20)
        tiny = cls(folder)
        for dtype in ("float32", "float64"):
            corpus = file_corpus([folder / "corpus.txt"], 0)
            collect(tiny.model(dtype), LAYERS, corpus, tokens=2000, out=tiny.covariance(dtype))
        tiny.write_facts("facts.json", cls.raw_facts())
        return tiny

    @staticmethod
    def raw_facts() -> list[dict[str, Any]]:
        """The facts as JSON values, with few enough prompts to be measured quickly."""
        text = resources.files("collabedit.datasets").joinpath("worldfacts.json").read_text("utf-8")
        return [
            {
                "case_id": raw["case_id"],
                "requested_rewrite": raw["requested_rewrite"],
                "paraphrase_prompts": raw["paraphrase_prompts"][:1],
                "neighborhood_prompts": raw["neighborhood_prompts"][:1],
            }
            for raw in json.loads(text)[:40]
        ]

    def write_facts(self, name: str, facts: Sequence[Mapping[str, Any]]) -> Path:
        """Write records into the folder."""
        path = self.folder / name
        path.write_text(json.dumps(facts), encoding="utf-8")
        return path

    def model(self, dtype: str = "float32") -> LanguageModel:
        """The model, unedited."""
        return load_model(str(self.folder / "model"), dtype=dtype)

    def covariance(self, dtype: str = "float32") -> Path:
        """The model's covariance."""
        return self.folder / f"covariance-{dtype}.safetensors"

    def second_moments(self, dtype: str = "float32") -> dict[str, Tensor]:
        """``lambda C`` by weight name: the dense priors."""
        stored = Covariance.load(self.covariance(dtype)).second_moments
        return {name: PRIOR_WEIGHT * moment for name, moment in stored.items()}

    def options(self, **changes: Any) -> dict[str, Any]:
        """Settings of a small study."""
        dtype = changes.get("dtype", "float32")
        return {
            "model": str(self.folder / "model"),
            "dataset": str(self.folder / "facts.json"),
            "parties": 2,
            "edits_per_party": (1, 2),
            "hyperparameters": Hyperparameters(
                layers=LAYERS, target_steps=3, prior_weight=PRIOR_WEIGHT
            ),
            "covariance": self.covariance(dtype),
            **changes,
        }


def load_summary(folder: Path) -> Any:
    """A run's summary as stored on disk: its keys are a format that users rely on."""
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def relative(a: Tensor, b: Tensor) -> float:
    """``|a - b| / |b|``."""
    return float((a - b).norm() / b.norm())


def assert_alike(cases: Sequence[CaseResult], expected: Sequence[CaseResult]) -> None:
    """The same records with the same results."""
    for case, other in zip(cases, expected, strict=True):
        assert case["case_id"] == other["case_id"]
        for key in ("rewrite", "paraphrase", "neighborhood"):
            for losses, wanted in zip(
                case[f"{key}_prompts_probs"],  # type: ignore[literal-required]
                other[f"{key}_prompts_probs"],  # type: ignore[literal-required]
                strict=True,
            ):
                assert losses == pytest.approx(wanted, rel=EXACT)


@contextmanager
def written(model: LanguageModel, changes: Mapping[str, Tensor]) -> Iterator[None]:
    """Weights with dense changes added by hand, and put back."""
    saved = {name: model.weight(name).clone() for name in changes}
    try:
        for name, change in changes.items():
            model.weight(name).copy_(model.weight(name).double() + change)
        yield
    finally:
        for name, weight in saved.items():
            model.weight(name).copy_(weight)


def rounds_of(run: Run, name: str) -> list[dict[str, Tensor]]:
    """What each round of a trajectory added, dense, by weight name."""
    folder = run.folder / "stages" / "states" / name
    count = len(list(folder.glob("*.safetensors")))
    states = [RoundState.load(folder / f"round_{n}.safetensors") for n in range(1, count + 1)]
    assert all(state.finished == 1 for state in states)
    return [{w: change.dense() for w, change in state.changes.items()} for state in states]


def totals_of(rounds: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """All changes before each round, nothing before the first; and those after the last one."""
    totals: list[dict[str, Tensor]] = [{}]
    for added in rounds:
        last = totals[-1]
        totals.append({**last, **{name: last.get(name, 0) + add for name, add in added.items()}})
    return totals


Statistics = list[tuple[Tensor, Tensor]]


def dense_update(statistics: Statistics, prior: Tensor) -> Tensor:
    """``(sum_k R_k K_k^T) (A0 + sum_k K_k K_k^T)^-1``."""
    cross = sum((residuals @ keys.T for keys, residuals in statistics), torch.zeros(1))
    return cross @ torch.linalg.inv(prior + key_moment(statistics))


def key_moment(statistics: Statistics) -> Tensor:
    """``sum_k K_k K_k^T``."""
    return sum((keys @ keys.T for keys, _ in statistics), torch.zeros(1))


def found_targets(
    model: LanguageModel, config: RoundConfig, shares: Sequence[Sequence[EditRequest]]
) -> list[Tensor]:
    """Each party's targets ``[d_out, n]``, found together and without a cache."""
    flat = [request for share in shares for request in share]
    owners = [owner for owner, share in enumerate(shares) for _ in share]
    settings = config.hyperparameters
    found = optimise_targets(model, flat, config.contexts, settings, owners=owners).double()
    return list(found.split([len(share) for share in shares], dim=1))


def dense_round(
    model: LanguageModel,
    config: RoundConfig,
    shares: Sequence[Sequence[EditRequest]],
    priors: Mapping[str, Tensor],
    targets: Sequence[Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Statistics]]:
    """A round by the dense formula, party by party, from nothing but measurements.

    Returns:
        By weight name, the update of all parties' edits, and each party's keys and residuals.
    """
    last = config.layers[-1]
    targets = targets or found_targets(model, config, shares)
    updates: dict[str, Tensor] = {}
    statistics: dict[str, Statistics] = {}
    for index, layer in enumerate(config.layers):
        below = updates if config.schedule is Schedule.LAYERWISE else {}
        name = config.weight_names[index]
        with written(model, below):
            parts = [measure(model, share, config.contexts, [layer], last) for share in shares]
        statistics[name] = [
            (part.keys[layer], (target - part.hidden) / (len(config.layers) - index))
            for part, target in zip(parts, targets, strict=True)
        ]
        updates[name] = dense_update(statistics[name], priors[name])
    return updates, statistics


def probabilities(metrics: Mapping[str, float]) -> dict[str, float]:
    """The measures of a summary except those of written answers."""
    return {key: value for key, value in metrics.items() if not key.startswith("answers_")}
