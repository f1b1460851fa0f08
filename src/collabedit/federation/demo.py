"""A whole federation on one machine: real processes, certificates and rounds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset, partition
from collabedit.editing import sample_contexts
from collabedit.errors import InputError
from collabedit.federation.deployment import Deployment
from collabedit.federation.folder import Report, Settings
from collabedit.federation.running import open_rounds, run_round_on, wait_for_parties
from collabedit.federation.tables import KINDS, shares
from collabedit.merging import resolve_method
from collabedit.messages import Covariance, Delta, Gate, RoundConfig, Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round, stored_secret
from collabedit.reporting.table import Column, Row, Table
from collabedit.requests import Record
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process

__all__ = ["DemoSettings", "run_demo"]

_NAMES = ("bank", "hospital", "university", "library", "ministry", "newspaper")


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demonstration.

    Attributes:
        model: the model to edit.
        parties: number of parties.
        edits_per_party: number of facts that each party holds.
        seed: seed of all sampling.
    """

    model: str = "smollm2-135m"
    parties: int = 3
    edits_per_party: int = 4
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """The parties' names, in order."""
        extra = [f"party-{number:03}" for number in range(len(_NAMES), self.parties)]
        return sorted([*_NAMES, *extra][: self.parties])


@dataclass(frozen=True)
class _Outcome:
    """One round over the network, and the same round in one process."""

    report: Report
    seconds: float
    seconds_in_process: float
    equal: bool


def run_demo(out: Path, settings: DemoSettings, schedules: Sequence[Schedule]) -> int:
    """Deploy a federation, run a round in each schedule, and compare with one process.

    Args:
        out: folder of the deployment; must not exist yet.
        settings: settings of the demonstration.
        schedules: one round is run in each.

    Returns:
        0 if every delta equals that of one process bit for bit, else 1.

    Raises:
        InputError: when the folder exists already.
    """
    from collabedit.reporting.tables import console

    if out.exists():
        raise InputError(f"{out}: already exists; remove it, or choose another --out")
    started = time.monotonic()
    show = console()
    show.print(
        f"{settings.parties} organisations hold {settings.edits_per_party} facts each. They and a "
        "coordinator, which\nsees none of the facts, run on this machine as separate processes "
        "that identify\neach other by certificates (mutual TLS).\n",
        highlight=False,
    )
    shares = _deal(settings)
    model = load_model(settings.model)
    rounds = {schedule: _round(model, schedule, settings) for schedule in schedules}
    covariance = default_covariance(model, rounds[schedules[0]].layers, settings.seed)
    out.mkdir(parents=True)
    covariance.save(out / "covariance.safetensors")
    reports: dict[Schedule, tuple[Report, float]] = {}
    with Deployment(out, shares, settings.model) as deployed, deployed.session() as session:
        _say(started, "the coordinator's server and all parties are up")
        wait_for_parties(session, settings.parties, 120, tell=lambda _: None)
        for schedule, config in rounds.items():
            _say(started, f"a {schedule.value} round begins")
            began = time.monotonic()
            report = _over_network(session, out, config, settings.parties)
            reports[schedule] = (report, time.monotonic() - began)
    outcomes = _compare(out, model, shares, rounds, covariance, reports, started)
    show.print(_table(outcomes, settings).rich())
    show.print(_LEGEND.format(out=out), highlight=False, markup=False)
    _say(started, "done")
    return 0 if all(outcome.equal for outcome in outcomes.values()) else 1


_LEGEND = """\
rewrite, paraphrase: how many of all parties' prompts give the new object; neighborhood: how many
neighbouring facts are unchanged. Each party counted its own; the coordinator got only the counts.
same bits: whether the delta equals that of the same parties within one process, to the last bit.
{out}/ has the kits, the rounds and all logs. To set up your own federation:
  collabedit federation init hospital bank university --host edit.example.org -o federation
"""


def _say(started: float, text: str) -> None:
    print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)


def _deal(settings: DemoSettings) -> dict[str, list[Record]]:
    dealt = partition(
        load_dataset("worldfacts"),
        settings.parties,
        settings.edits_per_party,
        seed=settings.seed,
    )
    return dict(zip(settings.names, dealt, strict=True))


def _round(model: LanguageModel, schedule: Schedule, settings: DemoSettings) -> RoundConfig:
    gate = Gate(least_share=0.0)  # keep every result: a demonstration shows what it got
    contexts = sample_contexts(model, settings.seed)  # conversations would take three times as long
    return new_round(model, contexts=contexts, schedule=schedule, seed=settings.seed, gate=gate)


def _over_network(session: Any, out: Path, config: RoundConfig, parties: int) -> Report:
    settings = Settings(
        covariance=(out / "covariance.safetensors").resolve(),
        min_parties=parties,
        timeout=600,
    )
    folder = open_rounds(out / f"rounds-{config.schedule.value}", config, settings)
    return run_round_on(session, folder, settings.timeout)


def _compare(
    out: Path,
    model: LanguageModel,
    shares: Mapping[str, Sequence[Record]],
    rounds: Mapping[Schedule, RoundConfig],
    covariance: Covariance,
    reports: Mapping[Schedule, tuple[Report, float]],
    started: float,
) -> dict[Schedule, _Outcome]:
    """Repeat the rounds with the same parties in this process, without a cache, and compare."""
    targets: dict[str, torch.Tensor] = {}
    outcomes = {}
    for schedule, config in rounds.items():
        _say(started, f"the {schedule.value} round again, within one process, to compare")
        began = time.monotonic()
        parties = [
            Party(
                model,
                [record.request for record in records],
                config,
                targets=targets.get(name),
                name=name,
                secret=stored_secret(),
            )
            for name, records in shares.items()
        ]
        coordinator = Coordinator(
            config, static_priors(config, covariance), resolve_method("CollabEdit")
        )
        expected = run_in_process(parties, coordinator)
        targets = {party.name: party.targets for party in parties}
        seconds = time.monotonic() - began
        report, over_network = reports[schedule]
        equal = False
        if report.status != "stopped":
            delta = out / f"rounds-{schedule.value}" / "round_001" / "delta.safetensors"
            equal = Delta.load(delta).sha256 == expected.sha256
        outcomes[schedule] = _Outcome(report, over_network, seconds, equal)
    return outcomes


def _table(outcomes: Mapping[Schedule, _Outcome], settings: DemoSettings) -> Table:
    edits = settings.parties * settings.edits_per_party
    title = f"{edits} edits of {settings.parties} organisations, {settings.model}, mutual TLS"
    rows: list[Row] = [
        {
            "schedule": schedule.value,
            "outcome": outcome.report.status,
            **shares(outcome.report),
            "sent": f"{outcome.report.sent / 1e6:.1f} MB",
            "received": f"{outcome.report.received / 1e6:.1f} MB",
            "seconds": outcome.seconds,
            "in one process": outcome.seconds_in_process,
            "same bits": "yes" if outcome.equal else "NO",
        }
        for schedule, outcome in outcomes.items()
    ]
    columns = [
        *map(Column.words, ("schedule", "outcome", *KINDS)),
        *map(Column.number, ("sent", "received")),
        *(Column.number(key, decimals=0) for key in ("seconds", "in one process")),
        Column.number("same bits"),
    ]
    return Table.of(title, columns, rows)
