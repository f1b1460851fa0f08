"""What secure aggregation costs: error, seconds and bytes, dense and sketched.

``python -m benchmarks.secure [--parties 3,10,30] [--widths 1536,6400,16384] [--edits 10]``: one
layer, the real protocol with all parties in one process, of which one is in memory at a time; the
baseline is the plain contribution. Seconds are processor time. With ``--one-party``, only the first
party masks its numbers, so there is no sum: this shows a party's cost at sizes where running all
would take an hour.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.machine import print_machine
from collabedit.algebra import Factors, Statistics
from collabedit.algebra.sketch import OVERSAMPLING
from collabedit.editors import Hyperparameters
from collabedit.messages import (
    Delta,
    Request,
    RequestKind,
    RoundConfig,
    Schedule,
    SecureAggregation,
)
from collabedit.privacy.secure import Answer, Exchanged, Identity, SecureParty, Summation

#: ``d_out`` by ``d_in``: SmolLM2, GPT2-XL, GPT-J.
WIDTHS = {1536: 576, 6400: 1600, 16384: 4096}


def round_of(identities: Sequence[Identity], d_in: int, form: str, edits: int) -> RoundConfig:
    parties = len(identities)
    return RoundConfig(
        model="none",
        model_sha256={"w": "0" * 64},
        schedule=Schedule.ONE_SHOT,
        hyperparameters=Hyperparameters(layers=(1,), prior_weight=1.0),
        contexts=[["{}"]],
        seed=0,
        dtype="float32",
        weight_names=("w",),
        d_in=d_in,
        d_out=WIDTHS[d_in],
        secure_aggregation=SecureAggregation(
            roster={identity.party: identity.public for identity in identities},
            threshold=parties // 2 + 1,
            max_edits=edits * parties,
            form=form,  # type: ignore[arg-type]
        ),
    )


def statistics(d_in: int, edits: int, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(d_in, edits, generator=generator, dtype=torch.float64),
        torch.randn(WIDTHS[d_in], edits, generator=generator, dtype=torch.float64),
    )


@dataclass
class Times:
    """Seconds and bytes, added up over a summation."""

    masking: float = 0.0
    coordinating: float = 0.0
    sent: int = 0

    @contextmanager
    def of(self, who: Literal["masking", "coordinating"]) -> Iterator[None]:
        start = time.process_time()
        yield
        setattr(self, who, getattr(self, who) + time.process_time() - start)


def exchanged_of(config: RoundConfig) -> Exchanged:
    sketches = {}
    secure = config.secure_aggregation
    assert secure is not None
    if secure.form == "sketched":
        # With the identity as prior, since whitening is not measured.
        generator = torch.Generator().manual_seed(0)
        width = secure.max_edits + OVERSAMPLING
        sketches["w"] = torch.randn(config.d_in, width, generator=generator)
    return Exchanged(config, "", (1,), sketches)


def measure(parties: int, d_in: int, form: str, edits: int, one_party: bool) -> str:
    identities = [Identity.new(f"party {number:02}") for number in range(parties)]
    config = round_of(identities, d_in, form, edits)
    summation = Summation(config, Delta.empty(config), exchanged_of(config))
    members = [SecureParty(identity, config) for identity in identities]
    parts = [statistics(d_in, edits, seed) for seed in range(parties)]
    times = Times()

    def answers(request: Request, count: int) -> Iterator[Answer]:
        for member, factors in list(zip(members, parts, strict=True))[:count]:
            with times.of("masking"):
                reply = member.answer(request, lambda f=factors: ({"w": f}, edits, "0" * 64))
            times.sent += len(reply)
            with times.of("coordinating"):
                answer = summation.read(None, reply)
            del reply
            yield answer

    start, plain = f"| {d_in} | {form} | {parties} |", 8 * edits * (d_in + WIDTHS[d_in])
    while summation.step is not None:
        request = summation.request()
        if one_party and summation.step is RequestKind.MASK:
            shared = times.masking / parties, times.sent / parties
            times.masking = times.sent = 0
            next(answers(request, 1))
            cells = costs(shared[0] + times.masking, None, shared[1] + times.sent, plain)
            return " ".join([start, cells, "not summed |"])
        # Reading and asking are counted where they happen, so only the adding is counted here.
        before, began = times.masking + times.coordinating, time.process_time()
        summation.advance(answers(request, parties))
        inside = times.masking + times.coordinating - before
        times.coordinating += time.process_time() - began - inside
    with times.of("coordinating"):
        total = summation.result().statistics["w"]
    cells = costs(times.masking / parties, times.coordinating, times.sent / parties, plain)
    return " ".join([start, cells, f"{error_of(total, parts):.0e} |"])


def costs(masking: float, coordinating: float | None, sent: float, plain: int) -> str:
    shown = "" if coordinating is None else f"{coordinating:.2f}"
    return f"{masking:.2f} | {shown} | {sent / 1e6:.1f} | {sent / plain:.0f} |"


def error_of(total: Statistics, parts: Sequence[Factors]) -> float:
    """The relative error of ``N`` on random vectors, so that no matrix of its size is formed."""
    pooled = Factors.stack(parts)
    generator = torch.Generator().manual_seed(1)
    probe = torch.randn(pooled.d_in, 4, generator=generator, dtype=torch.float64)
    expected = pooled.residuals @ (pooled.keys.T @ probe)
    if isinstance(total, Factors):
        product = total.residuals @ (total.keys.T @ probe)
    else:
        product = total.to_moments().cross_moment @ probe
    return float((product - expected).norm() / expected.norm())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parties", default="3,10,30")
    parser.add_argument("--widths", default="1536,6400,16384")
    parser.add_argument("--forms", default="dense,sketched")
    parser.add_argument("--edits", type=int, default=10, help="of each party")
    parser.add_argument("--one-party", action="store_true")
    options = parser.parse_args()
    print_machine()
    print(
        "| d_in | form | parties | a party, s | coordinator, s | MB a party | times plain | error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for d_in in map(int, options.widths.split(",")):
        for form in options.forms.split(","):
            for parties in map(int, options.parties.split(",")):
                print(measure(parties, d_in, form, options.edits, options.one_party), flush=True)


if __name__ == "__main__":
    main()
