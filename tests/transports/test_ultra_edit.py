"""UltraEdit through whole rounds: the official code's shifts, and the same result for any split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from collabedit.algebra import relative_distance
from collabedit.editors import Hyperparameters
from collabedit.errors import RoundError
from collabedit.merging import resolve_method
from collabedit.messages import Delta, Normaliser, Request, RequestKind, RoundConfig
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.rounds import Coordinator, Dropout, Failure, run_round, static_priors
from collabedit.transports import InProcess, run_in_process
from tests.conftest import make_model
from tests.editing.facts import CONTEXTS, REQUESTS

SHIFTS = Path(__file__).parents[1] / "fixtures" / "ultraedit" / "shifts.safetensors"
SETTINGS = Hyperparameters(layers=(1, 2), gradient_rate=0.01)


def round_of(model: LanguageModel) -> RoundConfig:
    return new_round(model, editor="UltraEdit", hyperparameters=SETTINGS, contexts=CONTEXTS)


def coordinator_of(config: RoundConfig, method: str = "CollabEdit") -> Coordinator:
    return Coordinator(config, static_priors(config, None), resolve_method(method))


def parties_of(model: LanguageModel, config: RoundConfig, sizes: Sequence[int]) -> list[Party]:
    parts = torch.arange(len(REQUESTS)).split(list(sizes))
    return [Party(model, [REQUESTS[i] for i in part], config) for part in parts]


def official_normaliser(party: Party, config: RoundConfig) -> Normaliser:
    """The running normaliser of the official code, which updates once per layer.

    Each update adds ``n`` times the unbiased variance, which is the scatter times ``n / (n - 1)``.
    """
    parts = [Normaliser.of(config.sha256, f) for f in party._own_features.values()]
    enlarged = [replace(p, scatter=p.scatter * p.count / (p.count - 1)) for p in parts]
    return Normaliser.pool(enlarged)


def test_it_matches_the_shifts_of_the_official_code() -> None:
    model = make_model("llama")
    config = round_of(model)
    (party,) = parties_of(model, config, [6])
    sent = party.contribute(Delta.empty(config), normaliser=official_normaliser(party, config))
    delta = coordinator_of(config, "GLOBAL").merge({"all": sent})
    for name, shift in load_file(SHIFTS).items():
        expected = shift.double()
        distance = (delta.changes[name].dense() - expected).norm() / expected.norm()
        # Float32 in all of theirs, and a system whose condition is about 100.
        assert distance < 1e-4


@pytest.mark.parametrize("sizes", [(1, 3, 2), (1, 1, 1, 1, 1, 1), (5, 1)])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.usefixtures("exact_arithmetic")
def test_any_split_gives_the_pooled_edit(family: str, sizes: Sequence[int]) -> None:
    model = make_model(family)
    config = round_of(model)
    parties = parties_of(model, config, sizes)
    merged = run_in_process(parties, coordinator_of(config))
    pooled = run_in_process([Party.pooled(parties)], coordinator_of(config, "GLOBAL"))
    for name, expected in pooled.changes.items():
        assert expected.dense().norm() > 0.05
        assert relative_distance(merged.changes[name], expected) < 1e-12


def test_the_normaliser_of_earlier_rounds_counts(exact_llama: LanguageModel) -> None:
    config = round_of(exact_llama)
    first, second = parties_of(exact_llama, config, [4, 2])
    together = coordinator_of(config)
    together.normalise({"a": first.summarise(), "b": second.summarise()})
    later = Coordinator(
        config,
        static_priors(config, None),
        resolve_method("CollabEdit"),
        normaliser=first.summarise(),
    )
    run_in_process([second], later)
    assert later.normaliser is not None
    assert together.normaliser is not None
    assert later.normaliser.count == together.normaliser.count
    assert torch.allclose(later.normaliser.mean, together.normaliser.mean, rtol=1e-12)


class Losing:
    """A transport that loses a party once the normaliser is agreed on."""

    def __init__(self, parties: Sequence[Party], lost: str) -> None:
        self._inner, self._lost = InProcess(parties), lost

    @property
    def parties(self) -> Sequence[str]:
        return self._inner.parties

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        replies = dict(self._inner.exchange(request, to))
        if Request.from_bytes(request).kind is RequestKind.CONTRIBUTE and self._lost in replies:
            replies[self._lost] = Failure("it was lost")
        return replies


def test_a_lost_party_leaves_no_trace_in_the_normaliser(exact_llama: LanguageModel) -> None:
    config = round_of(exact_llama)
    parties = parties_of(exact_llama, config, [2, 2, 2])
    losing = Losing(parties, InProcess(parties).parties[1])
    found = run_round(losing, coordinator_of(config), on_dropout=Dropout.RESTART)
    expected = run_in_process([parties[0], parties[2]], coordinator_of(config))
    for name, change in expected.changes.items():
        assert torch.equal(found.changes[name].dense(), change.dense())


def test_a_contribution_needs_the_rounds_own_normaliser(exact_llama: LanguageModel) -> None:
    config = round_of(exact_llama)
    (party,) = parties_of(exact_llama, config, [6])
    with pytest.raises(RoundError, match="UltraEdit needs the normaliser of all parties' features"):
        party.contribute(Delta.empty(config))
    other = Normaliser.of("another round", torch.ones(config.d_in + config.d_out, 3))
    with pytest.raises(RoundError, match="from another round"):
        party.contribute(Delta.empty(config), normaliser=other)
