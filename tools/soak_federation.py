"""Many rounds of a federation in a row, with random kills: nothing is lost, and memory stays flat.

    python -m tools.soak_federation --rounds 20 --minutes 20

Tiny models, real processes, mutual TLS. In each round, at random, nothing, one party's process, one
party's whole client or the coordinator's server is killed; clients and servers are restarted and
the coordinator's command is repeated, as an operator would. Each round's delta is compared bit for
bit with that of the same parties in one process.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp

import psutil

from collabedit.editors import Hyperparameters
from collabedit.errors import RoundError
from collabedit.federation.deployment import Deployment
from collabedit.federation.folder import Report, RoundFolder, Settings
from collabedit.federation.running import (
    next_round,
    open_rounds,
    run_round_on,
    wait_for_parties,
)
from collabedit.merging import resolve_method
from collabedit.messages import RoundConfig, RoundState, Schedule
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round, stored_secret
from collabedit.rounds import Coordinator, dynamic_priors, static_priors
from collabedit.transports import run_in_process
from tests.conftest import make_model
from tests.editing.facts import CONTEXTS
from tests.federation.settings import NAMES, OPEN, SHARES, delta_of
from tests.rounds.covariances import covariance_of

TIMEOUT = 30.0
#: Seconds that the processes of a finished round get to end.
SETTLING = 15.0
KILLS = ("nothing", "a party's process", "a party's client", "the server")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kill", nargs="+", choices=KILLS, default=KILLS, help="what to draw from")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = Path(mkdtemp(prefix="soak-"))
    soak(folder, options.rounds, 60 * options.minutes, options.kill, chance)


def soak(
    folder: Path, rounds: int, seconds: float, kills: Sequence[str], chance: random.Random
) -> None:
    started = time.monotonic()
    model = make_model("llama")
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    settings = Hyperparameters(layers=(1, 2), prior_weight=5.0, target_steps=50)
    config = new_round(
        model,
        schedule=Schedule.LAYERWISE,
        hyperparameters=settings,
        contexts=CONTEXTS,
        gate=OPEN,
    )
    covariance_of(config).save(folder / "covariance.safetensors")
    chosen = Settings(covariance=folder / "covariance.safetensors", min_parties=1, timeout=TIMEOUT)
    print(
        f"{folder}\nround  killed               status    parties  same bits  server MB  "
        "clients MB  seconds"
    )
    with Deployment(folder / "deployed", SHARES, str(folder / "model")) as deployed:
        current = open_rounds(folder / "rounds", config, chosen)
        for number in range(1, rounds + 1):
            began, kill = time.monotonic(), chance.choice(kills)
            report = one_round(deployed, current, kill, chance)
            took = time.monotonic() - began
            same = equal(model, config, current, report)
            server, *clients = settled_memory(deployed, ("server", *NAMES))
            print(
                f"{number:5}  {kill:<19}  {report.status:<8}  {len(report.parties):7}  "
                f"{same!s:>9}  {server:9.1f}  {max(clients):10.1f}  {took:7.0f}",
                flush=True,
            )
            if time.monotonic() - started > seconds:
                break
            current = next_round(folder / "rounds")


def one_round(
    deployed: Deployment, folder: RoundFolder, kill: str, chance: random.Random
) -> Report:
    """Run a round until its report, with one kill at a random moment; repeat what was cut off."""
    after = chance.uniform(2, 25)
    timer = threading.Timer(after, killer(deployed, kill, chance.choice(NAMES)))
    timer.start()
    while True:
        try:
            with deployed.session() as session:
                wait_for_parties(session, len(NAMES), 60, tell=lambda _: None)
                report = run_round_on(session, folder, TIMEOUT)
            timer.cancel()
            timer.join()
            return report
        except RoundError:
            time.sleep(1)


def killer(deployed: Deployment, kill: str, party: str) -> Callable[[], None]:
    def strike() -> None:
        if kill == "a party's process":
            for process in deployed.sites[party].family()[1:]:
                process.kill()
        elif kill == "a party's client":
            deployed.sites[party].kill()
            deployed.start_party(party)
        elif kill == "the server":
            deployed.sites["server"].kill()
            deployed.start_server()

    return strike


def settled_memory(deployed: Deployment, sites: Sequence[str]) -> list[float]:
    """Each member's memory once the processes of the last round have ended."""
    deadline = time.monotonic() + SETTLING
    while time.monotonic() < deadline and any(
        len(deployed.sites[site].family()) > 1 for site in sites
    ):
        time.sleep(0.5)
    return [memory(deployed, site) for site in sites]


def memory(deployed: Deployment, site: str) -> float:
    """Resident megabytes of a member's process and of those that it has started."""
    total = 0
    for process in deployed.sites[site].family():
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def equal(model: LanguageModel, config: RoundConfig, folder: RoundFolder, report: Report) -> bool:
    """Whether the delta equals that of the parties that took part, in one process."""
    if report.status != "accepted":
        return not (folder.path / "state.safetensors").exists()
    before: RoundState = folder.before
    now = folder.config
    priors = static_priors(config, covariance_of(config))
    if before.finished:
        priors = dynamic_priors(priors, before.keys, config.rules.beta)
    coordinator = Coordinator(now, priors, resolve_method("CollabEdit"))
    with model.starting_from(before.changes):
        parties = [
            Party(model, [r.request for r in SHARES[n]], now, name=n, secret=stored_secret())
            for n in report.parties
        ]
        expected = run_in_process(parties, coordinator)
    return delta_of(folder).sha256 == expected.sha256


if __name__ == "__main__":
    main()
