"""Parties on different hardware: how far their contributions differ, and whether the merge cares.

    python -m benchmarks.hardware [--device cuda] [--edits 4] [--out results/hardware.json]

The same facts are prepared as if the parties' machines differed: float32 with all threads and with
one, bfloat16 on the CPU, and both types on ``--device``. Each is compared with float32 and all
threads. Then come rounds in both schedules, with all parties on one kind of machine, and with each
on a different one. The merged delta is compared with pooled editing of exactly the contributions
that were sent, by a dense inverse in float64: that must be exact, whatever a party computed with.

A round has one type, and a party with weights in another is refused when it joins. Here such
parties are let in, to compare arithmetic that differs more than any round allows.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import print_machine
from benchmarks.report import timed
from collabedit.algebra import Factors, LowRankUpdate, Prior, relative_distance
from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset, partition
from collabedit.editing import sample_contexts
from collabedit.editors import Contexts
from collabedit.evaluation import evaluate, summarise
from collabedit.files import write_json
from collabedit.merging import resolve_method
from collabedit.messages import Contribution, Delta, RoundConfig, Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round
from collabedit.requests import Record
from collabedit.rounds import Coordinator, static_priors

SEED = 0
SCORES = ("ES", "PS", "NS")


@dataclass(frozen=True)
class Machine:
    """What a party computes with.

    Attributes:
        dtype: type of the weights.
        device: where the model is.
        threads: number of processor threads; 0 for all.
    """

    dtype: str
    device: str = "cpu"
    threads: int = 0

    def __str__(self) -> str:
        where = "" if self.device == "cpu" else f" {self.device}"
        threads = "" if self.threads == 0 else f", {self.threads} thread"
        return f"{self.dtype}{where}{threads}"


@dataclass
class Row:
    """One round: how exact the merge was, how far it is from the reference, and what it did.

    Attributes:
        schedule: the round's schedule.
        parties: the machine of each party.
        from_pooled: distance of the delta from pooled editing of what was sent.
        from_reference: its distance from that of the same round with all parties on the reference.
        scores: ES, PS and NS of the edited model, in float32.
    """

    schedule: str
    parties: list[str]
    from_pooled: float
    from_reference: float
    scores: dict[str, float]


@dataclass
class Host:
    """A kind of machine, the model on it, and all parties' targets found there."""

    machine: Machine
    model: LanguageModel
    contexts: Contexts
    shares: Sequence[Sequence[Record]]
    seconds: float = 0.0
    targets: list[Tensor] = field(default_factory=list)
    configs: dict[Schedule, RoundConfig] = field(default_factory=dict)
    sent: dict[tuple[int, str, Schedule], Contribution] = field(default_factory=dict)

    def config(self, schedule: Schedule) -> RoundConfig:
        """The round on this model; only one per schedule, since parties commit to it."""
        if schedule not in self.configs:
            config = new_round(self.model, contexts=self.contexts, schedule=schedule, seed=SEED)
            self.configs[schedule] = config
        return self.configs[schedule]

    def prepare(self) -> None:
        """Find the targets, which both schedules share."""
        _use(self.machine)
        config = self.config(Schedule.ONE_SHOT)
        parties = [Party(self.model, share, config) for share in self.shares]
        targets, self.seconds = timed(lambda: [party.targets for party in parties])
        self.targets = [target.cpu() for target in targets]

    def contribution(self, number: int, so_far: Delta, schedule: Schedule) -> Contribution:
        """What a party sends from this machine on top of what is merged so far."""
        key = number, so_far.sha256, schedule
        if key not in self.sent:
            self.sent[key] = self._measured(number, so_far, schedule)
        return self.sent[key]

    def _measured(self, number: int, so_far: Delta, schedule: Schedule) -> Contribution:
        _use(self.machine)
        config = self.config(schedule)
        party = Party(
            self.model,
            self.shares[number],
            config,
            targets=self.targets[number].to(self.model.device),
            name=f"party-{number}",
            secret=b"the same in all exchanges",
        )
        here = Delta.of(config, so_far.changes, method="CollabEdit")
        return party.contribute(here)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.hardware", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", help="a further device, such as cuda")
    parser.add_argument("--edits", type=int, default=4, help="of each party")
    parser.add_argument("--out", type=Path, default=Path("results/hardware.json"))
    given = parser.parse_args()
    print_machine()
    machines = [Machine("float32"), Machine("float32", threads=1), Machine("bfloat16")]
    if given.device:
        machines += [Machine("float32", given.device), Machine("bfloat16", given.device)]
    shares = partition(load_dataset("worldfacts"), 3, given.edits, seed=SEED)
    bench = Bench(given.model, shares, machines)
    bench.compare_contributions()
    bench.compare_rounds()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, {"edits": 3 * given.edits, "differ": bench.differ, "rounds": bench.rows})


class Bench:
    """All machines, the first of which is the reference."""

    def __init__(
        self, model: str, shares: Sequence[Sequence[Record]], machines: Sequence[Machine]
    ) -> None:
        self.reference = load_model(model, device="cpu")
        self.records = [record for share in shares for record in share]
        contexts = sample_contexts(self.reference, SEED)
        self.hosts = [
            Host(machine, self._loaded(model, machine), contexts, shares) for machine in machines
        ]
        config = self.hosts[0].config(Schedule.ONE_SHOT)
        self.priors = static_priors(config, default_covariance(self.reference, config.layers, SEED))
        self.differ: list[dict[str, object]] = []
        self.rows: list[dict[str, object]] = []
        self._known: dict[tuple[str, ...], dict[str, float]] = {}

    def _loaded(self, model: str, machine: Machine) -> LanguageModel:
        if (machine.dtype, machine.device) == ("float32", "cpu"):
            return self.reference
        return load_model(model, dtype=machine.dtype, device=machine.device)

    def compare_contributions(self) -> None:
        """Print how far the statistics of the same facts are from the reference's."""
        print("| machine | seconds | targets | keys | K K^T | R K^T | own delta | bytes equal |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        expected: list[Contribution] = []
        for host in self.hosts:
            host.prepare()
            empty = Delta.empty(host.config(Schedule.ONE_SHOT))
            sent = [host.contribution(p, empty, Schedule.ONE_SHOT) for p in range(3)]
            expected = expected or sent
            row = self._differences(host, sent, expected)
            self.differ.append({"machine": str(host.machine), "seconds": host.seconds, **row})
            parts = " | ".join(f"{value:.1e}" for value in row.values())
            same = all(map(_same, sent, expected))
            print(f"| {host.machine} | {host.seconds:.0f} | {parts} | {same} |", flush=True)

    def _differences(
        self, host: Host, sent: Sequence[Contribution], expected: Sequence[Contribution]
    ) -> dict[str, float]:
        """The largest differences over parties and layers, relative in the Frobenius norm."""
        pairs = [
            (mine, theirs, name)
            for mine, theirs in zip(sent, expected, strict=True)
            for name in theirs.statistics
        ]
        targets = zip(host.targets, self.hosts[0].targets, strict=True)
        return {
            "targets": max(_relative(a, b) for a, b in targets),
            "keys": max(
                _relative(_spectrum(a.statistics[n].keys), _spectrum(b.statistics[n].keys))
                for a, b, n in pairs
            ),
            "moment": max(
                _relative(_moment(a.statistics[n]), _moment(b.statistics[n])) for a, b, n in pairs
            ),
            "cross": max(
                _relative(_cross(a.statistics[n]), _cross(b.statistics[n])) for a, b, n in pairs
            ),
            "delta": max(
                relative_distance(
                    _pooled([a.statistics[n]], self.priors[n]),
                    _pooled([b.statistics[n]], self.priors[n]),
                )
                for a, b, n in pairs
            ),
        }

    def compare_rounds(self) -> None:
        """Run rounds with all parties on one kind of machine, and with each on a different one."""
        print(f"\n| schedule | parties | from pooled | from reference | {' | '.join(SCORES)} |")
        print("|---|---|---|---|---|---|---|")
        scores = self._scores({})
        unedited = " | ".join(f"{scores[name]:.1f}" for name in SCORES)
        print(f"| | unedited | | | {unedited} |", flush=True)
        first, second, third, *others = self.hosts
        mixed = [[first, second, third]]
        mixed += [[first, second, others[-1]]] if others else []
        for schedule in Schedule:
            reference: Delta | None = None
            for hosts in [*([host] * 3 for host in self.hosts), *mixed]:
                delta, exactness = self._round(schedule, hosts)
                reference = reference or delta
                self._keep(schedule, hosts, delta, exactness, reference)

    def _keep(
        self,
        schedule: Schedule,
        hosts: Sequence[Host],
        delta: Delta,
        exactness: float,
        reference: Delta,
    ) -> None:
        names = [str(host.machine) for host in hosts]
        away = max(
            relative_distance(change, reference.changes[name])
            for name, change in delta.changes.items()
        )
        row = Row(schedule.value, names, exactness, away, self._scores(delta.changes))
        self.rows.append(asdict(row))
        who = names[0] if len(set(names)) == 1 else " + ".join(names)
        scores = " | ".join(f"{row.scores[name]:.1f}" for name in SCORES)
        print(f"| {schedule.value} | {who} | {exactness:.1e} | {away:.1e} | {scores} |", flush=True)

    def _round(self, schedule: Schedule, hosts: Sequence[Host]) -> tuple[Delta, float]:
        """One round with a party on each host, and its distance from pooled editing."""
        config = self.hosts[0].config(schedule)
        coordinator = Coordinator(config, self.priors, resolve_method("CollabEdit"))
        worst = 0.0
        while layers := coordinator.pending_layers:
            sent = {
                f"party-{number}": _let_in(
                    host.contribution(number, coordinator.delta, schedule), coordinator
                )
                for number, host in enumerate(hosts)
            }
            merged = coordinator.merge(sent)
            for layer in layers:
                name = config.weight_of(layer)
                pooled = _pooled(
                    [part.statistics[name] for part in sent.values()], self.priors[name]
                )
                worst = max(worst, relative_distance(merged.changes[name], pooled))
        return coordinator.delta, worst

    def _scores(self, changes: Mapping[str, LowRankUpdate]) -> dict[str, float]:
        torch.set_num_threads(_ALL)
        key = tuple(change.sha256 for change in changes.values())
        if key not in self._known:
            with self.reference.edited(changes):
                summary = summarise(evaluate(self.reference, self.records))
            self._known[key] = {name: float(summary[name]) for name in SCORES}
        return self._known[key]


_ALL = torch.get_num_threads()


def _use(machine: Machine) -> None:
    torch.set_num_threads(machine.threads or _ALL)


def _let_in(sent: Contribution, coordinator: Coordinator) -> Contribution:
    """A contribution relabelled for the coordinator's round, whatever type its weights have."""
    labels = {
        "model_sha256": coordinator.config.model_sha256,
        "round_sha256": coordinator.config.sha256,
        "delta_sha256": coordinator.delta.sha256,
    }
    return replace(sent, metadata=sent.metadata.model_copy(update=labels))


def _pooled(parts: Sequence[Factors], prior: Prior) -> LowRankUpdate:
    """``R K^T (A0 + K K^T)^-1`` of all edits at once, by a dense solve in float64."""
    keys = torch.cat([part.keys for part in parts], dim=1)
    residuals = torch.cat([part.residuals for part in parts], dim=1)
    system = prior.dense() + keys @ keys.T
    return LowRankUpdate(residuals, torch.linalg.solve(system, keys).T)


def _moment(factors: Factors) -> Tensor:
    return factors.keys @ factors.keys.T


def _cross(factors: Factors) -> Tensor:
    return factors.residuals @ factors.keys.T


def _spectrum(keys: Tensor) -> Tensor:
    """Singular values of the keys, which no rotation of the factors changes."""
    return torch.linalg.svdvals(keys)


def _relative(value: Tensor, reference: Tensor) -> float:
    return float(((value - reference).norm() / reference.norm()).double())


def _same(sent: Contribution, expected: Contribution) -> bool:
    return all(
        torch.equal(sent.statistics[name].keys, factors.keys)
        and torch.equal(sent.statistics[name].residuals, factors.residuals)
        for name, factors in expected.statistics.items()
    )


if __name__ == "__main__":
    main()
