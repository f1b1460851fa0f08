"""Stage by stage against the plain way: the papers' formulas, one edit at a time, dense inverses.

What ``test_reference.py`` checks against values captured from the original code, checked against
code of our own that shares nothing with the package's, so that it runs everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from benchmarks.plain import plain_hidden, plain_keys, plain_target
from collabedit.algebra import LowRankUpdate
from collabedit.covariance import TextCorpus, collect
from collabedit.editing import measure, optimise_targets
from collabedit.editors import Hyperparameters
from collabedit.merging import resolve_method
from collabedit.messages import Covariance, RoundConfig, Schedule
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process
from tests.conftest import CORPUS, EXACT, make_model
from tests.editing.facts import CONTEXTS, REQUESTS

pytestmark = pytest.mark.usefixtures("exact_module")

LAYERS = (0, 1, 2)
WEIGHT = 5.0
SETTINGS = Hyperparameters(
    layers=LAYERS, prior_weight=WEIGHT, target_steps=6, target_learning_rate=0.1
)
SHARES = [slice(0, 1), slice(1, 4), slice(4, 6)]
TEXTS = TextCorpus("texts", {}, lambda: CORPUS)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


class Plain:
    """All stages on one model, by loops and dense matrices."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.names = dict(zip(LAYERS, model.weight_names(LAYERS), strict=True))
        self.moments = {layer: self._moment(layer) for layer in LAYERS}
        found = [plain_target(model, request, CONTEXTS, SETTINGS)[0] for request in REQUESTS]
        self.targets = torch.stack(found, dim=1).double()
        self.keys = {layer: self.keys_now(layer) for layer in LAYERS}
        self.residual = self.residual_now()

    def _moment(self, layer: int) -> Tensor:
        inputs: list[Tensor] = []
        handle = self.model.projection(layer).register_forward_pre_hook(
            lambda _module, args: inputs.append(args[0][0])
        )
        for text in CORPUS:
            with torch.no_grad():
                self.model.hf(**self.model.tokenizer(text, return_tensors="pt"))
        handle.remove()
        tokens = torch.cat(inputs).double()
        return sum(torch.outer(token, token) for token in tokens) / len(tokens)

    def keys_now(self, layer: int) -> Tensor:
        return torch.stack([plain_keys(self.model, r, CONTEXTS, layer) for r in REQUESTS], dim=1)

    def residual_now(self) -> Tensor:
        hidden = [plain_hidden(self.model, request, LAYERS[-1]) for request in REQUESTS]
        return self.targets - torch.stack(hidden, dim=1)

    def update(self, layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        """``R K^T (lambda C + K K^T)^-1``, with the layer's share of the residual."""
        share = residual / (len(LAYERS) - LAYERS.index(layer))
        system = WEIGHT * self.moments[layer] + keys @ keys.T
        return share @ keys.T @ torch.linalg.inv(system)

    def one_shot(self, method: str) -> dict[str, Tensor]:
        merged = {}
        for layer, name in self.names.items():
            keys, prior = self.keys[layer], WEIGHT * self.moments[layer]
            own = [self.update(layer, keys[:, s], self.residual[:, s]) for s in SHARES]
            if method == "GLOBAL":
                merged[name] = self.update(layer, keys, self.residual)
            elif method == "CollabEdit":  # as in the paper, from updates and Gram matrices
                grams = [keys[:, s] @ keys[:, s].T for s in SHARES]
                total = sum(d @ (prior + gram) for d, gram in zip(own, grams, strict=True))
                merged[name] = total @ torch.linalg.inv(prior + sum(grams))
            elif method == "SA":
                merged[name] = sum(own) / len(own)
            elif method == "TA":
                merged[name] = sum(own)
            else:
                merged[name] = trimmed_elected_and_averaged(own)
        return merged

    def sequential(self) -> dict[str, Tensor]:
        """MEMIT: each layer is written before the next one is measured."""
        changes: dict[str, LowRankUpdate] = {}
        for layer, name in self.names.items():
            with self.model.edited(changes):
                change = self.update(layer, self.keys_now(layer), self.residual_now())
            changes = {**changes, name: LowRankUpdate.from_dense(change)}
        return {name: change.dense() for name, change in changes.items()}


def trimmed_elected_and_averaged(updates: Sequence[Tensor]) -> Tensor:
    """TIES: the top 20 % of each, the sign of the larger mass, the mean of those that agree."""
    trimmed = []
    for update in updates:
        kept = int(0.2 * update.numel()) + 1  # the code of TIES keeps the entry at its threshold
        least = update.abs().flatten().sort(descending=True).values[kept - 1]
        trimmed.append(torch.where(update.abs() >= least, update, 0.0))
    stacked = torch.stack(trimmed)
    sign = stacked.sum(dim=0).sign()
    agrees = (stacked.sign() == sign) & (stacked != 0)
    mean = (stacked * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
    return 0.4 * mean


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain(make_model("gpt2"))


@pytest.fixture(scope="module")
def covariance(plain: Plain) -> Covariance:
    return collect(plain.model, LAYERS, TEXTS, tokens=10_000, say=lambda _: None)


def config_of(plain: Plain, schedule: Schedule) -> RoundConfig:
    return new_round(plain.model, schedule=schedule, hyperparameters=SETTINGS, contexts=CONTEXTS)


def merged(
    plain: Plain, covariance: Covariance, schedule: Schedule, method: str
) -> dict[str, Tensor]:
    """The round on the plain targets, whose last digits are the descent's."""
    config = config_of(plain, schedule)
    targets = plain.targets.float()
    parties = [
        Party(plain.model, REQUESTS[share], config, targets=targets[:, share]) for share in SHARES
    ]
    if method == "GLOBAL":
        parties = [Party.pooled(parties)]
    delta = run_in_process(
        parties, Coordinator(config, static_priors(config, covariance), resolve_method(method))
    )
    return {name: change.dense() for name, change in delta.changes.items()}


def test_covariance(plain: Plain, covariance: Covariance) -> None:
    for layer, name in plain.names.items():
        assert relative(covariance.second_moments[name], plain.moments[layer]) < EXACT


def test_keys_and_residuals(plain: Plain) -> None:
    measured = measure(plain.model, REQUESTS, CONTEXTS, LAYERS, LAYERS[-1])
    for layer in LAYERS:
        assert relative(measured.keys[layer], plain.keys[layer]) < EXACT
    assert relative(plain.targets - measured.hidden, plain.residual) < EXACT


def test_targets(plain: Plain) -> None:
    found = optimise_targets(plain.model, REQUESTS, CONTEXTS, SETTINGS, quick=False)
    assert relative(found - plain.targets + plain.residual, plain.residual) < EXACT


@pytest.mark.parametrize("method", ["CollabEdit", "GLOBAL", "SA", "TA", "TIES"])
def test_merged_updates(plain: Plain, covariance: Covariance, method: str) -> None:
    found = merged(plain, covariance, Schedule.ONE_SHOT, method)
    for name, expected in plain.one_shot(method).items():
        assert relative(found[name], expected) < EXACT


@pytest.mark.parametrize("method", ["CollabEdit", "GLOBAL"])
def test_sequential_memit(plain: Plain, covariance: Covariance, method: str) -> None:
    found = merged(plain, covariance, Schedule.LAYERWISE, method)
    for name, expected in plain.sequential().items():
        assert relative(found[name], expected) < EXACT
