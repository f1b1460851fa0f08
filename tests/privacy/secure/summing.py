"""Summations without a model: parties with random statistics, and a coordinator that may lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from collabedit.algebra import Factors, Moments, Prior, Statistics
from collabedit.algebra.sketch import OVERSAMPLING, sketch_matrix
from collabedit.editors import Hyperparameters
from collabedit.errors import CollabEditError
from collabedit.messages import Delta, Request, RoundConfig, Schedule, SecureAggregation
from collabedit.privacy.secure import Exchanged, Identity, SecureParty, Summation

D_IN, D_OUT, EDITS = 12, 5, 3
NAMES = ("bank", "clinic", "hospital", "newsroom", "school")


def make_identities(count: int = 4) -> list[Identity]:
    return [Identity(name, bytes([index + 1]) * 32) for index, name in enumerate(NAMES[:count])]


def make_config(
    identities: Sequence[Identity], threshold: int, form: str = "sketched", **changes: object
) -> RoundConfig:
    values: dict[str, object] = {
        "roster": {each.party: each.public for each in identities},
        "threshold": threshold,
        "max_edits": EDITS * len(identities),
        "form": form,
        **changes,
    }
    return RoundConfig(
        model="none",
        model_sha256={"a": "0" * 64, "b": "1" * 64},
        schedule=Schedule.ONE_SHOT,
        hyperparameters=Hyperparameters(layers=(1, 2), prior_weight=1.0),
        contexts=[["{}"]],
        seed=0,
        dtype="float32",
        weight_names=("a", "b"),
        d_in=D_IN,
        d_out=D_OUT,
        secure_aggregation=SecureAggregation(**values),
        created="2026-01-01T00:00:00+00:00",
    )


def make_statistics(seed: int, edits: int = EDITS) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)

    def random(rows: int) -> torch.Tensor:
        return torch.randn(rows, edits, generator=generator, dtype=torch.float64)

    return {name: Factors(random(D_IN), random(D_OUT)) for name in ("a", "b")}


def make_summation(config: RoundConfig) -> Summation:
    assert config.secure_aggregation is not None
    delta = Delta.empty(config)
    sketches = {}
    if config.secure_aggregation.form == "sketched":
        prior = Prior(torch.eye(D_IN, dtype=torch.float64))
        width = config.secure_aggregation.max_edits + OVERSAMPLING
        sketches = {name: sketch_matrix(prior, width, 0) for name in config.weight_names}
    return Summation(config, delta, Exchanged(config, "", config.layers, sketches))


@dataclass
class Room:
    """Parties and a coordinator that exchange bytes.

    ``absent`` names the parties that do not answer a step; ``request_of`` and ``reply_of`` make the
    coordinator or a party lie.
    """

    parties: list[SecureParty]
    statistics: list[Mapping[str, Factors]]
    summation: Summation
    absent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    request_of: Callable[[str, Request], Request] = lambda _, request: request
    reply_of: Callable[[str, str, bytes], bytes] = lambda _, __, reply: reply
    refused: dict[str, str] = field(default_factory=dict)

    def step(self) -> None:
        """One step: parties that refuse, or answer badly, are left out, with the reason noted."""
        request, kind = self.summation.request(), self.summation.step
        assert kind is not None
        answers = []
        gone = {name for step in self.absent for name in self.absent[step] if step == kind.value}
        for party, statistics in zip(self.parties, self.statistics, strict=True):
            if party.name in self.refused or party.name in gone:
                self.refused.setdefault(party.name, "absent")
                continue
            try:
                asked = Request.from_bytes(self.request_of(party.name, request).to_bytes())
                edits = next(iter(statistics.values())).rank
                reply = party.answer(asked, lambda s=statistics, n=edits: (s, n, "ab" * 32))
                reply = self.reply_of(party.name, kind.value, reply)
                answers.append(self.summation.read(party.name, reply))
            except CollabEditError as error:
                self.refused[party.name] = str(error)
        self.summation.advance(answers)

    def run(self, steps: int = 5) -> None:
        for _ in range(steps):
            self.step()


def make_room(
    count: int = 4, threshold: int = 3, form: str = "sketched", **options: object
) -> Room:
    identities = make_identities(count)
    config = make_config(identities, threshold, form)
    return Room(
        [SecureParty(each, config, roster=config.secure_aggregation.roster) for each in identities],
        [make_statistics(index) for index in range(count)],
        make_summation(config),
        **options,  # type: ignore[arg-type]
    )


def assert_sum_of(found: Mapping[str, Statistics], parts: Sequence[Mapping[str, Factors]]) -> None:
    for name in ("a", "b"):
        first, *others = (Moments.of(part[name]) for part in parts)
        expected = sum(others, first)
        moments = found[name].to_moments()
        torch.testing.assert_close(moments.key_moment, expected.key_moment, rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(
            moments.cross_moment, expected.cross_moment, rtol=1e-11, atol=1e-10
        )
