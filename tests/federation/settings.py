"""Federations of tiny models within one process, in which every message crosses as bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from collabedit.editors import Hyperparameters
from collabedit.errors import CollabEditError
from collabedit.federation.conductor import RoundConductor
from collabedit.federation.folder import Report, RoundFolder, Settings
from collabedit.federation.member import Member
from collabedit.federation.running import open_rounds
from collabedit.federation.settings import MemberSettings
from collabedit.merging import resolve_method
from collabedit.messages import Delta, Gate, Request, RoundConfig, Schedule
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round, stored_secret
from collabedit.requests import Record
from collabedit.rounds import Coordinator, Failure, static_priors
from collabedit.transports import run_in_process
from tests.conftest import make_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.rounds.covariances import covariance_of

SETTINGS = Hyperparameters(layers=(1, 2), prior_weight=5.0, target_steps=3)
OPEN = Gate(least_share=0.0)
NAMES = ("bank", "hospital", "library")
SHARES = {
    name: [
        Record(
            replace(request, target_true="Paris"),
            paraphrase_prompts=(f"They say: {request.text}",),
            neighborhood_prompts=("The capital of Italy is",),
        )
        for request in REQUESTS[2 * index : 2 * index + 2]
    ]
    for index, name in enumerate(NAMES)
}

#: Spoils a reply, given the party, the stage and the bytes.
Spoil = Callable[[str, str, bytes], bytes | Failure]


def untouched(_party: str, _stage: str, reply: bytes) -> bytes:
    return reply


class Members:
    """A transport to members in this process, each with its own model."""

    def __init__(self, members: Mapping[str, Member], spoil: Spoil = untouched) -> None:
        self.members, self.spoil = members, spoil
        self.parties: Sequence[str] = sorted(members)
        self.crossed: list[bytes] = []
        self.stages: list[tuple[str, tuple[str, ...]]] = []

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        try:
            stage = Request.from_bytes(request).kind.value
        except CollabEditError:
            stage = "join"
        self.stages.append((stage, tuple(to)))
        self.crossed.append(request)
        return {party: self._ask(party, stage, request) for party in reversed(to)}

    def _ask(self, party: str, stage: str, request: bytes) -> bytes | Failure:
        try:
            reply = self.members[party].answer(request)
        except CollabEditError as error:
            return Failure(str(error))
        self.crossed.append(reply)
        return self.spoil(party, stage, reply)


def make_member(
    name: str,
    folder: Path,
    records: Sequence[Record],
    model: LanguageModel | None = None,
    **own: object,
) -> Member:
    identity = folder / f"{name}.key"
    settings = MemberSettings(
        requests=folder / f"{name}.jsonl",
        out=folder / name,
        cache=False,
        identity=identity if identity.exists() else None,
        **own,
    )
    member = Member(settings, records, model or make_model("llama"))
    member.begin(name)
    return member


def make_members(
    folder: Path, shares: Mapping[str, Sequence[Record]] = SHARES, **own: object
) -> dict[str, Member]:
    return {name: make_member(name, folder, records, **own) for name, records in shares.items()}


def make_config(schedule: Schedule = Schedule.LAYERWISE, gate: Gate | None = OPEN) -> RoundConfig:
    return new_round(
        make_model("llama"),
        schedule=schedule,
        hyperparameters=SETTINGS,
        contexts=CONTEXTS,
        gate=gate,
    )


def open_folder(folder: Path, config: RoundConfig, **settings: object) -> RoundFolder:
    covariance = folder / "covariance.safetensors"
    covariance_of(config).save(covariance)
    values = {"min_parties": 2, **settings}
    return open_rounds(folder / "rounds", config, Settings(covariance=covariance, **values))


def conducted(folder: RoundFolder, transport: Members) -> Report:
    RoundConductor(str(folder.path)).conduct(transport)
    report = folder.report
    assert report is not None
    return report


def delta_of(folder: RoundFolder) -> Delta:
    return Delta.load(folder.path / "delta.safetensors")


def in_one_process(
    config: RoundConfig, names: Sequence[str] = NAMES, model: LanguageModel | None = None
) -> Delta:
    """The same round of the same parties, as the library runs it in one process."""
    chosen = model or make_model("llama")
    parties = [
        Party(chosen, [r.request for r in SHARES[name]], config, name=name, secret=stored_secret())
        for name in names
    ]
    priors = static_priors(config, covariance_of(config))
    return run_in_process(parties, Coordinator(config, priors, resolve_method("CollabEdit")))


def assert_same_bits(found: Delta, expected: Delta) -> None:
    assert found.changes.keys() == expected.changes.keys()
    for name, change in expected.changes.items():
        assert torch.equal(found.changes[name].left, change.left)
        assert torch.equal(found.changes[name].right, change.right)
