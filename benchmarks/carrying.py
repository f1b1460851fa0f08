"""Messages over FLARE with mutual TLS: seconds and memory by size, over this machine's loopback.

    python -m benchmarks.carrying [--megabytes 1 10 100 300] [--parties 3]

A coordinator's server and the parties run in separate processes and compute nothing: random bytes
go to all parties at once, and come from all of them at once. Memory is the peak of the round's
process, at the coordinator and at a party, beyond what it held before the first message.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import print_machine
from collabedit.federation.deployment import Deployment
from collabedit.federation.running import connected, wait_for_parties
from collabedit.files import read_json, write_json
from collabedit.requests import EditRequest, Record
from collabedit.rounds import Failure, Transport
from collabedit.transports.flare.jobs import submit

_HERE = "benchmarks.carrying"
_ROOT = Path(__file__).parents[1]
_RECORD = Record(EditRequest(0, "The capital of {} is", "France", "Rome"))
_NUMBER = 8  # bytes


class Asker:
    """The coordinator's side: sends and asks for as many bytes as its folder says."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def heard(self, party: str, size: int) -> None:
        """Nothing to do."""

    def conduct(self, transport: Transport) -> None:
        """Exchange messages of all sizes, and write what they took."""
        self._exchange(transport, 0, 0)  # opens the connections
        before = _held()
        rows = []
        for count in read_json(self._folder / "sizes.json", "sizes"):
            sending, there = self._exchange(transport, count, 0)
            receiving, _ = self._exchange(transport, 0, count)
            rows.append([count, sending, receiving, _held() - before, there])
            write_json(self._folder / "rows.json", rows)

    def _exchange(self, transport: Transport, sent: int, wanted: int) -> tuple[float, int]:
        """Seconds, and the most bytes that a party has held."""
        request = wanted.to_bytes(_NUMBER, "big") + os.urandom(sent)
        began = time.monotonic()
        replies: Mapping[str, bytes | Failure] = transport.exchange(request, transport.parties)
        seconds = time.monotonic() - began
        held = []
        for party, reply in replies.items():
            if isinstance(reply, Failure) or len(reply) != wanted + _NUMBER:
                raise SystemExit(f"{party} gave a wrong answer: {reply!r:.100}")
            held.append(int.from_bytes(reply[:_NUMBER], "big"))
        return seconds, max(held)


class Answerer:
    """A party's side: answers with as many bytes as it is asked for."""

    def __init__(self) -> None:
        self._before = 0

    def begin(self, party: str) -> None:
        """Nothing to prepare."""

    def answer(self, request: bytes) -> bytes:
        """How much memory it has held, and random bytes."""
        self._before = self._before or _held()
        wanted = int.from_bytes(request[:_NUMBER], "big")
        return (_held() - self._before).to_bytes(_NUMBER, "big") + os.urandom(wanted)


def _held() -> int:
    """This process's peak memory so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.carrying", description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 100, 300])
    parser.add_argument("--parties", type=int, default=3)
    given = parser.parse_args()
    print_machine()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    with TemporaryDirectory(prefix="carrying-") as scratch:
        folder = Path(scratch)
        write_json(folder / "sizes.json", [1_000_000 * size for size in sorted(given.megabytes)])
        print(
            "| MB | sending to all, s | receiving from all, s | coordinator's MB | a party's MB |"
        )
        print("|---|---|---|---|---|", flush=True)
        _run(folder, given.parties, len(given.megabytes))


def _run(folder: Path, parties: int, sizes: int, seconds: float = 600.0) -> None:
    names = [f"party-{number}" for number in range(1, parties + 1)]
    deployment = Deployment(folder / "deployed", {name: [_RECORD] for name in names}, "none")
    for resources in (folder / "deployed").rglob("local/resources.json"):
        allowed = read_json(resources, "start-up kit")
        allowed["class_allow_list"].append(_HERE)
        write_json(resources, allowed)
    with deployment as deployed, deployed.session() as session:
        wait_for_parties(session, parties, 120, tell=lambda _: None)
        submit(
            session,
            connected(session),
            conductor=f"{_HERE}.Asker",
            folder_of_round=folder,
            answering=f"{_HERE}.Answerer",
            timeout=seconds,
        )
        end, shown = time.monotonic() + seconds, 0
        while shown < sizes:
            shown = _print_rows(folder / "rows.json", shown)
            if time.monotonic() > end:
                raise SystemExit(f"no result in {seconds:.0f} s; {folder} has the logs")
            time.sleep(0.5)


def _print_rows(path: Path, shown: int) -> int:
    """Print new rows; returns how many there are in all."""
    rows = read_json(path, "rows") if path.is_file() else []
    for count, sending, receiving, here, there in rows[shown:]:
        sizes = f"{count / 1e6:.0f} | {sending:.1f} | {receiving:.1f}"
        print(f"| {sizes} | {here / 1e6:.0f} | {there / 1e6:.0f} |", flush=True)
    return len(rows)


if __name__ == "__main__":
    main()
