"""A merge method and an editor of one's own in a whole round, by public functions only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate, Prior, relative_distance
from collabedit.editing import measure
from collabedit.editors import Editor, PriorSpec, register_editor, registry, resolve_editor
from collabedit.merging import Merges, merge_method, resolve_method
from collabedit.merging import registry as merging_registry
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.transports.test_in_process import SETTINGS, covariance_of


@dataclass(frozen=True)
class IdentityPrior(PriorSpec):
    weight: float

    def build(self, second_moment: Tensor) -> Prior:
        return Prior(self.weight * torch.eye(len(second_moment), dtype=torch.float64))


@pytest.fixture
def ridge() -> Iterator[Editor]:
    yield register_editor(
        Editor("Ridge", "Least squares.", prior_spec=lambda s: IdentityPrior(s.prior_weight))
    )
    del registry._EDITORS["ridge"]


@pytest.fixture
def median() -> Iterator[None]:
    @merge_method("Median", Merges.UPDATES)
    def _median(updates: Sequence[LowRankUpdate], *, scale: float = 1.0) -> LowRankUpdate:
        """The median of the parties' own updates, entry by entry."""
        dense = torch.stack([update.dense() for update in updates])
        return LowRankUpdate.from_dense(scale * dense.median(dim=0).values)

    yield
    del merging_registry._METHODS["median"]


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
