"""Statistics and merge of one layer: ours against the dense matrices of the paper's code.

    python -m benchmarks.merge [--size gpt2-xl|gpt-j|small]

Parties and coordinator together, on synthetic keys and residuals, both in float64. Each way runs in
a separate process; prints seconds, peak memory beyond the inputs, bytes sent by the parties, and
the relative difference of the results.

The paper's way: each party solves a dense ``[d_in, d_in]`` system and sends ``Delta_j`` and
``K_j K_j^T``; the coordinator, which holds all uploads, undoes the solves by dense products and
inverts the sum. Ours: factors, summed or stacked, whichever takes fewer operations. Stacked ones
are solved with a prior whose Cholesky factor outlives the round; its one-time cost is printed too.

At GPT-J's size the paper's way takes too long, and its uploads need more memory than most machines
have: one party and the coordinator's product for it are timed and multiplied, the inverse is taken
once, and the memory of the other uploads is added arithmetically. The reference is then the pooled
solution from that same inverse.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.machine import in_child, print_machine, with_peak_memory
from benchmarks.plain import plain_merge, plain_upload
from benchmarks.report import print_ratio, require_agreement, timed
from collabedit.algebra import Prior, compress
from collabedit.algebra.solve import prefers_factors
from collabedit.merging import collab_edit

#: Largest ``|D - D_plain| / |D_plain|``.
TOLERANCE = 1e-8

_PRIOR_WEIGHT = 15000.0
_LONG_DIRECTIONS = 64


@dataclass(frozen=True)
class Size:
    """What is merged.

    Attributes:
        d_in: width of a key.
        d_out: width of a residual.
        parties: number of parties.
        edits: number of edits of each.
        speedup: the speedup wanted.
        in_full: whether the paper's way is run for every party.
    """

    d_in: int
    d_out: int
    parties: int
    edits: int
    speedup: float
    in_full: bool = True

    @property
    def plain_upload_bytes(self) -> int:
        """``Delta_j`` and ``K_j K_j^T`` of one party."""
        return 8 * (self.d_in**2 + self.d_in * self.d_out)


SIZES = {
    "small": Size(512, 128, parties=4, edits=20, speedup=1),
    "gpt2-xl": Size(6400, 1600, parties=10, edits=500, speedup=5),
    "gpt-j": Size(16384, 4096, parties=10, edits=500, speedup=10, in_full=False),
}


@dataclass(frozen=True)
class Outcome:
    """What one way took; its result is in a file.

    Attributes:
        parties: seconds of all parties.
        coordinator: seconds of the coordinator.
        once: seconds of what outlives the round.
        memory: bytes at the peak beyond the inputs.
        sent: bytes that the parties sent.
    """

    parties: float
    coordinator: float
    once: float
    memory: int
    sent: int

    @property
    def seconds(self) -> float:
        """The total, without what outlives the round."""
        return self.parties + self.coordinator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2-xl")
    name = parser.parse_args().size
    size = SIZES[name]
    print_machine()
    print(f"{name}: {size.parties} parties of {size.edits} edits, {size.d_out} x {size.d_in}")
    with TemporaryDirectory() as folder:
        ours_file, plain_file = Path(folder) / "ours", Path(folder) / "plain"
        ours = in_child(measured, our_way, size, ours_file)
        _print_outcome("ours", ours)
        way = paper_way if size.in_full else sampled_paper_way
        plain = in_child(measured, way, size, plain_file)
        _print_outcome("the paper's way", plain)
        distance = _distance(ours_file, plain_file)
    if not size.in_full:
        print("the paper's way: one party and one product timed and multiplied by the parties,")
        print("the uploads of the other parties added to the memory by count")
    print_ratio("seconds, plain / ours", plain.seconds / ours.seconds, size.speedup)
    with_once = plain.seconds / (ours.seconds + ours.once)
    print_ratio("the same, with the factor", with_once, size.speedup)
    print_ratio("memory, plain / ours", plain.memory / ours.memory, 4)
    print_ratio("bytes sent, plain / ours", plain.sent / ours.sent, 12)
    require_agreement("relative difference", distance, TOLERANCE)


def _print_outcome(name: str, outcome: Outcome) -> None:
    print(
        f"{name:<16} {outcome.seconds:8.2f} s (parties {outcome.parties:.2f}, coordinator "
        f"{outcome.coordinator:.2f}; once {outcome.once:.2f}), peak {outcome.memory / 1e9:.2f} GB, "
        f"sent {outcome.sent / 1e6:,.1f} MB",
        flush=True,
    )


def _distance(path: Path, reference_path: Path) -> float:
    delta, reference = load_file(path)["delta"], load_file(reference_path)["delta"]
    return float((delta - reference).norm() / reference.norm())


@dataclass(frozen=True)
class Problem:
    """The inputs: the prior ``A0 [d_in, d_in]``, and each party's keys and residuals."""

    prior: Tensor
    edits: list[tuple[Tensor, Tensor]]


def make_problem(size: Size) -> Problem:
    """Keys with a few long directions and spread scales, and the prior of their second moment."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    scales = torch.logspace(0, -2, size.d_in, dtype=torch.float64)
    long = random(size.d_in, _LONG_DIRECTIONS) / _LONG_DIRECTIONS**0.5
    prior = (long @ long.T).mul_(scales).mul_(scales[:, None])
    prior.diagonal().add_(scales**2)
    prior.mul_(_PRIOR_WEIGHT)
    edits = []
    for _ in range(size.parties):
        keys = random(size.d_in, size.edits).add_(long @ random(_LONG_DIRECTIONS, size.edits))
        edits.append((keys.mul_(scales[:, None]), random(size.d_out, size.edits)))
    return Problem(prior, edits)


def measured(way: Callable[[Size, Problem, Path], Outcome], size: Size, path: Path) -> Outcome:
    """Run one way in this process, with its inputs ready."""
    problem = make_problem(size)
    outcome, memory = with_peak_memory(lambda: way(size, problem, path))
    return replace(outcome, memory=memory + outcome.memory)


def our_way(size: Size, problem: Problem, path: Path) -> Outcome:
    """Compress and solve; the prior's factor, if this form needs it, outlives the round."""
    prior = Prior(problem.prior)
    factored = prefers_factors(size.parties * size.edits, size.d_in, size.d_out)
    _, once = timed(lambda: prior.cholesky if factored else None)
    uploads, parties = timed(lambda: [compress(*edits) for edits in problem.edits])
    update, coordinator = timed(lambda: collab_edit(uploads, prior))
    sent = sum(upload.keys.nbytes + upload.residuals.nbytes for upload in uploads)
    _save(update.dense(), path)
    return Outcome(parties, coordinator, once, 0, sent)


def paper_way(size: Size, problem: Problem, path: Path) -> Outcome:
    """Every party in full; the coordinator holds all uploads."""
    uploads, parties = timed(lambda: [plain_upload(problem.prior, *e) for e in problem.edits])
    delta, coordinator = timed(lambda: plain_merge(problem.prior, uploads))
    _save(delta, path)
    return Outcome(parties, coordinator, 0.0, 0, size.parties * size.plain_upload_bytes)


def sampled_paper_way(size: Size, problem: Problem, path: Path) -> Outcome:
    """One party of many; the result is the pooled solution from the coordinator's inverse."""
    keys, residuals = problem.edits[0]
    upload, party = timed(lambda: plain_upload(problem.prior, keys, residuals))
    product, undone = timed(lambda: upload.delta @ (upload.moment + problem.prior))
    expected = residuals @ keys.T
    distance = float((product - expected).norm() / expected.norm())
    require_agreement("R K^T of the party that was timed", distance, TOLERANCE)
    del product, expected
    system = problem.prior.clone()
    cross = torch.zeros(size.d_out, size.d_in, dtype=torch.float64)
    for keys, residuals in problem.edits:
        system.addmm_(keys, keys.T)
        cross.addmm_(residuals, keys.T)
    delta, inverted = timed(lambda: cross @ system.inverse())
    _save(delta, path)
    others = (size.parties - 1) * size.plain_upload_bytes
    seconds = size.parties * party, size.parties * undone + inverted
    return Outcome(*seconds, 0.0, others, size.parties * size.plain_upload_bytes)


def _save(delta: Tensor, path: Path) -> None:
    save_file({"delta": delta.contiguous()}, path)


if __name__ == "__main__":
    main()
