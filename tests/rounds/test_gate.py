"""The gate over a transport, and which cheats get past it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from collabedit.algebra import Factors, relative_distance
from collabedit.editors import Hyperparameters
from collabedit.errors import ContributionError, RequestError, RoundError
from collabedit.merging import resolve_method
from collabedit.messages import (
    Bounds,
    Contribution,
    Evaluation,
    Gate,
    Request,
    RequestKind,
    RoundConfig,
    Schedule,
)
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round, try_delta
from collabedit.parties.in_process import parties_of, secure_aggregation_of
from collabedit.requests import EditRequest
from collabedit.rounds import (
    COORDINATOR,
    Coordinator,
    Dropout,
    Failure,
    Ledger,
    run_gate,
    run_round,
)
from collabedit.transports import InProcess
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.rounds.test_round import make_priors

pytestmark = pytest.mark.slow  # whole rounds

NAMES = ("bank", "clinic", "hospital")
SHARES = (REQUESTS[:1], REQUESTS[1:4], REQUESTS[4:])
#: A random model of two hundred thousand weights learns no facts; only its text can show damage.
GATE = Gate(least_efficacy=0.0, most_loss=1.0)
SETTINGS = Hyperparameters(layers=(1, 2), prior_weight=5.0, target_steps=4)


class Cheat(Party):
    """Scales its statistics, and accepts the result."""

    keys = residuals = 1.0

    def contribute(self, *arguments: object, **options: object) -> Contribution:
        made = super().contribute(*arguments, **options)  # type: ignore[arg-type]
        return replace(
            made,
            statistics={
                name: Factors(self.keys * part.keys, self.residuals * part.residuals)
                for name, part in made.statistics.items()
            },
        )

    def evaluate(self, delta: object) -> Evaluation:
        vote = super().evaluate(delta)  # type: ignore[arg-type]
        return vote.model_copy(update={"objections": ()})


def make_round(
    model: LanguageModel,
    *,
    secure: bool = False,
    bounds: Bounds | None = None,
    schedule: Schedule = Schedule.ONE_SHOT,
) -> RoundConfig:
    return new_round(
        model,
        schedule=schedule,
        hyperparameters=SETTINGS,
        contexts=CONTEXTS,
        secure_aggregation=secure_aggregation_of([1, 3, 2]) if secure else None,
        bounds=bounds,
        gate=GATE,
    )


def make_parties(
    model: LanguageModel,
    config: RoundConfig,
    *,
    keys: float = 1.0,
    residuals: float = 1.0,
    shares: Sequence[Sequence[EditRequest]] = SHARES,
) -> list[Party]:
    """Three parties, the last of which cheats if a factor is not 1."""
    halves = parties_of(config) or [None] * len(shares)
    names = NAMES if config.secure_aggregation is None else [""] * len(shares)
    parties: list[Party] = [
        Party(model, own, config, name=name, secure=half)
        for own, name, half in zip(shares, names, halves, strict=True)
    ]
    if (keys, residuals) != (1.0, 1.0):
        cheat = Cheat(model, shares[-1], config, name=names[-1], secure=halves[-1])
        cheat.keys, cheat.residuals = keys, residuals
        parties[-1] = cheat
    return parties


def coordinator_of(config: RoundConfig, ledger: Ledger | None = None) -> Coordinator:
    return Coordinator(config, make_priors(config), resolve_method("CollabEdit"), ledger=ledger)


def gated(parties: Sequence[Party], **options: object) -> Coordinator:
    """A complete round in one process, in which every message crosses as bytes."""
    transport, coordinator = InProcess(parties), coordinator_of(parties[0].config)
    run_round(transport, coordinator, **options)  # type: ignore[arg-type]
    run_gate(transport, coordinator)
    return coordinator


@pytest.mark.parametrize("schedule", list(Schedule))
def test_an_honest_round_is_kept(
    tiny_llama: LanguageModel, schedule: Schedule, tmp_path: Path
) -> None:
    before = {name: tiny_llama.weight(name).clone() for name in make_round(tiny_llama).weight_names}
    config = make_round(tiny_llama, schedule=schedule)
    ledger = gated(make_parties(tiny_llama, config)).ledger
    assert ledger.verdict is not None
    assert ledger.verdict.accepted
    assert list(ledger.verdict.votes) == list(NAMES)
    assert [vote.hits["rewrite"].of for vote in ledger.verdict.votes.values()] == [1, 3, 2]
    for name, weight in before.items():
        assert torch.equal(tiny_llama.weight(name), weight)
    ledger.save(tmp_path / "ledger.safetensors")
    assert Ledger.load(tmp_path / "ledger.safetensors").verdict == ledger.verdict


def test_the_gate_needs_a_complete_round(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    with pytest.raises(RoundError, match="unfinished round"):
        run_gate(InProcess(make_parties(tiny_llama, config)), coordinator_of(config))


def test_a_coordinator_with_a_model_votes_too(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    transport, coordinator = InProcess(make_parties(tiny_llama, config)), coordinator_of(config)
    delta = run_round(transport, coordinator)
    own = try_delta(tiny_llama, delta, config, party=COORDINATOR)
    assert own.hits == {}
    rejecting = own.model_copy(update={"objections": ("perplexity",)})
    verdict = run_gate(transport, coordinator, own=rejecting)
    assert not verdict.accepted
    assert "3 of 4 votes accept, 100% must; coordinator rejects" in verdict.reason
    other = own.model_copy(update={"delta_sha256": "0" * 64})
    with pytest.raises(RoundError, match="another delta"):
        run_gate(transport, coordinator, own=other)


class Spoiled(InProcess):
    """Some parties' votes are replaced."""

    def __init__(self, parties: Sequence[Party], votes: Mapping[str, bytes | Failure]) -> None:
        super().__init__(parties)
        self.votes = votes
        self.heard: list[tuple[str, str]] = []

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        replies = dict(super().exchange(request, to))
        if Request.from_bytes(request).kind is RequestKind.EVALUATE:
            replies |= self.votes
        return replies


def test_unreadable_votes_do_not_count(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    parties, coordinator = make_parties(tiny_llama, config), coordinator_of(config)
    transport = Spoiled(parties, {"bank": b"nonsense"})
    delta = run_round(transport, coordinator)
    stolen = parties[1].evaluate(delta).to_bytes()
    for votes, silent in (
        ({"bank": b"nonsense"}, ["bank"]),
        ({"bank": stolen}, ["bank"]),
        ({"bank": Failure("gone"), "clinic": Failure("gone")}, ["bank", "clinic"]),
    ):
        transport.votes, heard = votes, []
        verdict = run_gate(
            transport, coordinator, unheard=lambda party, *_, heard=heard: heard.append(party)
        )
        assert heard == silent
        assert verdict.accepted is (len(silent) == 1)


# Which cheats get past it


@pytest.mark.parametrize("secure", [False, True])
def test_the_gate_catches_residuals_a_thousand_times_too_large(
    tiny_llama: LanguageModel, secure: bool
) -> None:
    if secure:
        pytest.importorskip("cryptography")
    config = make_round(tiny_llama, secure=secure)
    coordinator = gated(make_parties(tiny_llama, config, residuals=1000.0))
    verdict = coordinator.ledger.verdict
    assert verdict is not None
    assert not verdict.accepted
    honest, cheat = list(verdict.votes.values())[:2], list(verdict.votes.values())[2]
    assert [vote.objections for vote in honest] == [("perplexity",)] * 2
    assert cheat.accepts
    # Nobody learns how many edits a party has from its vote on a sum.
    assert all(bool(vote.hits) is not secure for vote in verdict.votes.values())


@pytest.mark.parametrize("keys", [1000.0, 1.0])
def test_bounds_leave_a_party_out_by_name(tiny_llama: LanguageModel, keys: float) -> None:
    config = make_round(tiny_llama, bounds=Bounds(norm=10.0))
    parties = make_parties(tiny_llama, config, keys=keys, residuals=1000.0)
    with pytest.raises(ContributionError, match=r"hospital: .* allows a factor of 10") as caught:
        gated(parties)
    assert caught.value.party == "hospital"
    gone: list[str] = []
    coordinator = gated(
        parties, on_dropout=Dropout.RESTART, left_out=lambda party, _: gone.append(party)
    )
    assert gone == ["hospital"]
    honest = coordinator_of(config)
    run_round(InProcess(make_parties(tiny_llama, config)[:2]), honest)
    for name, change in honest.delta.changes.items():
        assert relative_distance(coordinator.delta.changes[name], change) < 1e-12


def test_bounds_on_edits_and_rank(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama, bounds=Bounds(edits=2))
    parties = make_parties(tiny_llama, config)
    with pytest.raises(ContributionError, match="clinic: it has 3 edits, and the round allows"):
        gated(parties)
    with pytest.raises(ContributionError, match="this party: it has 3 edits"):
        Party(tiny_llama, SHARES[1], config).prepare()
    config = make_round(tiny_llama, bounds=Bounds(rank=2))
    with pytest.raises(ContributionError, match="clinic: its statistics have 3 directions"):
        gated(make_parties(tiny_llama, config))
    assert not issubclass(ContributionError, RequestError)


@pytest.mark.parametrize("secure", [False, True])
def test_nothing_notices_an_unrelated_subject(tiny_llama: LanguageModel, secure: bool) -> None:
    """A well-formed edit of a subject that nobody tries looks like any other."""
    if secure:
        pytest.importorskip("cryptography")
    strange = [EditRequest(0, "{} is found in", "Gold", "Wales")] * 1
    bounds = None if secure else Bounds(norm=10.0, edits=3, rank=3)
    config = make_round(tiny_llama, secure=secure, bounds=bounds)
    shares = (*SHARES[:2], strange)
    coordinator = gated(make_parties(tiny_llama, config, shares=shares))
    assert coordinator.ledger.verdict is not None
    assert coordinator.ledger.verdict.accepted


class Replaying(InProcess):
    """The last party sends what it sent in another round."""

    def __init__(self, parties: Sequence[Party], kept: dict[RequestKind, bytes]) -> None:
        super().__init__(parties)
        self.kept, self.replays = kept, bool(kept)

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        replies = dict(super().exchange(request, to))
        kind, cheat = Request.from_bytes(request).kind, list(self.parties)[-1]
        if kind in (RequestKind.CONTRIBUTE, RequestKind.MASK) and cheat in replies:
            reply = replies[cheat]
            assert isinstance(reply, bytes)
            replies[cheat] = self.kept.setdefault(kind, reply)
        return replies


@pytest.mark.parametrize("secure", [False, True])
def test_a_replay_is_refused_by_name(tiny_llama: LanguageModel, secure: bool) -> None:
    if secure:
        pytest.importorskip("cryptography")
    kept: dict[RequestKind, bytes] = {}
    first = make_round(tiny_llama, secure=secure)
    run_round(Replaying(make_parties(tiny_llama, first), kept), coordinator_of(first))
    assert len(kept) == 1
    config = RoundConfig.model_validate({**first.model_dump(), "seed": 1})  # another round
    again = Replaying(make_parties(tiny_llama, config), kept)
    with pytest.raises(RoundError) as caught:
        run_round(again, coordinator_of(config))
    assert str(caught.value).startswith(f"{list(again.parties)[-1]}: ")
