"""A run that is killed at any moment and started again ends with the same result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from collabedit.editing.targets import TargetCache
from collabedit.experiments import MultiRoundSettings, multi_round
from collabedit.messages import RoundState
from collabedit.reporting.results import Costs
from tests.experiments.studies import LAYERS, Tiny

_COMMAND = "from collabedit.cli import main; main()"
_MINUTES = 5.0


@dataclass(frozen=True)
class Place:
    """The folders of one command: its results and its own cache."""

    folder: Path
    arguments: tuple[str, ...]

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def start(self) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "COLLABEDIT_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *self.arguments, "--results", str(self.results)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def files(self) -> int:
        """Finished files, which show progress: of stages, targets and statistics."""
        return sum(path.suffix in (".json", ".safetensors") for path in self.folder.rglob("[!.]*"))

    def finish(self) -> Path:
        """Run to the end; returns the folder of the only run."""
        process = self.start()
        output, _ = process.communicate(timeout=60 * _MINUTES)
        assert process.returncode == 0, output
        (params,) = self.results.glob("MEMIT/run_*/params.json")
        return params.parent

    def kill(self, after_files: int, after_seconds: float) -> bool:
        """Kill a command shortly after it has finished this many further files.

        Returns:
            Whether it was killed; false when it ended before.
        """
        before, end = self.files(), time.monotonic() + 60 * _MINUTES
        process = self.start()
        while process.poll() is None and self.files() - before < after_files:
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(after_seconds)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), output
        return process.returncode != 0


STUDIES = {
    "multi-round": ["--rounds", "3", "--merge", "CollabEdit,TA", "--beta", "0.5", "-n", "1,3"],
    "overlap": ["--rounds", "2", "--copies", "1,2", "--skip-known", "0.0019", "-n", "3"],
}


@pytest.mark.parametrize(("study", "kills"), [("multi-round", 3), ("overlap", 2)])
def test_a_killed_run_ends_with_the_same_bytes(
    tiny: Tiny, tmp_path: Path, study: str, kills: int
) -> None:
    hparams = tmp_path / "hparams.json"
    settings = {"layers": LAYERS, "target_steps": 3, "prior_weight": 5.0}
    hparams.write_text(json.dumps(settings))
    arguments = ["run", study, "--model", str(tiny.folder / "model"), "--parties", "2"]
    arguments += ["--dataset", str(tiny.folder / "facts.json"), "--hparams", str(hparams)]
    arguments += STUDIES[study]
    whole = Place(tmp_path / "whole", tuple(arguments))
    parts = Place(tmp_path / "parts", tuple(arguments))
    expected = whole.finish()
    chooser, most = random.Random(study), whole.files() // (kills + 2)
    for _ in range(kills):
        assert parts.kill(chooser.randint(1, most), chooser.uniform(0, 0.1))
        assert not list(parts.results.rglob("summary.json"))
    assert 0 < parts.files() < whole.files()
    run = parts.finish()
    assert (run / "summary.json").read_bytes() == (expected / "summary.json").read_bytes()
    names = {path.name for path in expected.glob("case_*.json")}
    assert {path.name for path in run.glob("case_*.json")} == names
    for name in names:
        assert (run / name).read_bytes() == (expected / name).read_bytes()
    for folder in (run, expected):  # whatever was killed, no finished stage lacks its costs
        stages = folder / "stages"
        finished = {
            p.relative_to(stages).with_suffix("").as_posix() for p in stages.rglob("[!.]*.*")
        }
        assert set(Costs.load(folder).stages) == finished


@pytest.mark.parametrize("stored", [0, 1])
def test_targets_that_were_not_kept_are_recomputed_identically(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: int
) -> None:
    """The moment before a round's targets are stored, which kills seldom hit."""
    settings = MultiRoundSettings(**tiny.options(rounds=2, merge=("CollabEdit",)))
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache of whole"))
    whole = multi_round(settings, tmp_path / "whole")
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache of parts"))
    original, kept = TargetCache.store, []

    def stops(cache: TargetCache, key: str, targets: Tensor) -> None:
        if len(kept) == stored:
            raise KeyboardInterrupt
        kept.append(key)
        original(cache, key, targets)

    with monkeypatch.context() as patch:
        patch.setattr(TargetCache, "store", stops)
        with pytest.raises(KeyboardInterrupt):
            multi_round(settings, tmp_path / "parts")
    run = multi_round(settings, tmp_path / "parts")
    assert run.continued
    for number in (1, 2):
        path = f"stages/states/CollabEdit/round_{number}.safetensors"
        found, expected = (RoundState.load(one.folder / path) for one in (run, whole))
        for name, change in expected.changes.items():
            assert torch.equal(found.changes[name].dense(), change.dense())
    summaries = [(one.folder / "summary.json").read_bytes() for one in (run, whole)]
    assert summaries[0] == summaries[1]
