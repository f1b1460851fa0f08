"""What secure aggregation costs: error, seconds and bytes, dense and sketched.

``python -m benchmarks.secure [--parties 3,10,30] [--widths 1536,6400,16384]``: one layer, 10 edits
a party, the real protocol with all parties in one process; the baseline is the plain contribution.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from benchmarks.machine import print_machine
from collabedit.algebra import Factors, Prior
from collabedit.algebra.sketch import OVERSAMPLING, sketch_matrix
from collabedit.editors import Hyperparameters
from collabedit.messages import Delta, RoundConfig, Schedule, SecureAggregation
from collabedit.privacy.secure import Exchanged, Identity, SecureParty, Summation

#: ``d_out`` by ``d_in``: SmolLM2, GPT2-XL, GPT-J.
WIDTHS = {1536: 576, 6400: 1600, 16384: 4096}
EDITS = 10
#: Bytes of all masked sums together beyond which a row is left out.
MOST = 6e9


def round_of(identities: Sequence[Identity], d_in: int, form: str) -> RoundConfig:
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
            roster={each.party: each.public for each in identities},
            threshold=parties // 2 + 1,
            max_edits=EDITS * parties,
            form=form,  # type: ignore[arg-type]
        ),
    )


def statistics(d_in: int, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(d_in, EDITS, generator=generator, dtype=torch.float64),
        torch.randn(WIDTHS[d_in], EDITS, generator=generator, dtype=torch.float64),
    )


def measure(parties: int, d_in: int, form: str) -> str:
    identities = [Identity.new(f"party {number:02}") for number in range(parties)]
    config = round_of(identities, d_in, form)
    sketches = {}
    if form == "sketched":
        prior = Prior.from_factor(  # a diagonal one: whitening is not what is measured
            torch.eye(d_in, dtype=torch.float64), torch.eye(d_in, dtype=torch.float64)
        )
        sketches["w"] = sketch_matrix(prior, EDITS * parties + OVERSAMPLING, 0)
        del prior
    exchanged = Exchanged(config, "", (1,), sketches)
    if 16 * exchanged.length * parties > MOST:
        return f"| {d_in} | {form} | {parties} | | | | | does not fit |"
    summation = Summation(config, Delta.empty(config), exchanged)
    members = [SecureParty(each, config) for each in identities]
    own = [statistics(d_in, seed) for seed in range(parties)]
    masking, sent, coordinating = 0.0, 0, 0.0
    while summation.step is not None:
        request = summation.request()
        answers = []
        for member, factors in zip(members, own, strict=True):
            start = time.perf_counter()
            reply = member.answer(request, lambda f=factors: ({"w": f}, EDITS, "0" * 64))
            masking += time.perf_counter() - start
            sent += len(reply)
            start = time.perf_counter()
            answers.append(summation.read(None, reply))
            coordinating += time.perf_counter() - start
        start = time.perf_counter()
        summation.advance(answers)
        coordinating += time.perf_counter() - start
    del answers
    start = time.perf_counter()
    found = summation.result().statistics["w"]
    coordinating += time.perf_counter() - start
    pooled = Factors.stack(own)
    # On vectors, so that no d_in x d_in matrix is formed for the comparison.
    probe = torch.randn(d_in, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = pooled.residuals @ (pooled.keys.T @ probe)
    if isinstance(found, Factors):
        seen = found.residuals @ (found.keys.T @ probe)
    else:
        seen = found.to_moments().cross_moment @ probe
    error = float((seen - expected).norm() / expected.norm())
    plain = 8 * EDITS * (d_in + WIDTHS[d_in])
    return (
        f"| {d_in} | {form} | {parties} | {masking / parties:.2f} | {coordinating:.2f} "
        f"| {sent / parties / 1e6:.1f} | {sent / parties / plain:.0f} | {error:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parties", default="3,10,30")
    parser.add_argument("--widths", default="1536,6400,16384")
    parser.add_argument("--forms", default="dense,sketched")
    options = parser.parse_args()
    print_machine()
    print(
        "| d_in | form | parties | a party, s | coordinator, s | MB a party | times plain | error |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for d_in in map(int, options.widths.split(",")):
        for form in options.forms.split(","):
            for parties in map(int, options.parties.split(",")):
                print(measure(parties, d_in, form), flush=True)


if __name__ == "__main__":
    main()
