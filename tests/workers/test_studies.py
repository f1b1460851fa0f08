"""Studies give the same bytes here, on processes, on Ray, and when a worker is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from collabedit.editing import targets
from collabedit.errors import ModelError
from collabedit.experiments import (
    EditorsSettings,
    MultiRoundSettings,
    Run,
    SingleRoundSettings,
    compare_editors,
    multi_round,
    single_round,
)
from collabedit.files import load_tensors, read_json
from collabedit.models import load_model
from collabedit.workers import ModelSource, SolvedByWorkers, open_workers
from collabedit.workers.targets import resident_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.experiments.studies import LAYERS, PRIOR_WEIGHT, Tiny
from tests.workers.units import KillsOne

pytestmark = pytest.mark.slow  # all together

#: What no two runs have in common, whoever does the work.
TIMES = {"seconds.json"}
MOMENTS = {"created"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all but the first would find its targets; workers take it over."""
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@contextmanager
def _here(place: Path) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def _processes(place: Path) -> Iterator[Executor | None]:
    with open_workers("2") as executor:
        yield executor


@contextmanager
def _killed(place: Path) -> Iterator[Executor]:
    with open_workers("2") as executor:
        assert executor is not None
        yield KillsOne(executor, place / "killed")
    assert (place / "killed").exists()


@contextmanager
def _ray(place: Path) -> Iterator[Executor | None]:
    ray = pytest.importorskip("ray")
    import os
    import sys

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ours = {"PYTHONPATH": os.pathsep.join(sys.path), "COLLABEDIT_CACHE": str(place / "of-ray")}
    ray.init(
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {**ours, "OMP_NUM_THREADS": "1"}},
    )
    try:
        with open_workers("ray") as executor:
            yield executor
    finally:
        ray.shutdown()


@contextmanager
def _ray_killed(place: Path) -> Iterator[Executor]:
    with _ray(place) as executor:
        assert executor is not None
        yield KillsOne(executor, place / "killed")
    assert (place / "killed").exists()


WAYS: dict[str, Callable[[Path], Any]] = {
    "2 processes": _processes,
    "2 processes, one killed": _killed,
    "Ray": _ray,
    "Ray, one killed": _ray_killed,
}


def contents(run: Run) -> dict[str, Any]:
    """All that a run has found, by relative path: bytes, or tensors and what is said of them."""
    found: dict[str, Any] = {}
    for path in sorted(run.folder.rglob("*")):
        name = path.relative_to(run.folder).as_posix()
        if path.suffix == ".safetensors":
            tensors, about = load_tensors(path)
            exact = {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}
            found[name] = exact, {key: about[key] for key in about if key not in MOMENTS}
        elif path.name == "round.json":
            found[name] = {k: v for k, v in read_json(path).items() if k not in MOMENTS}
        elif path.is_file() and path.name not in TIMES:
            found[name] = path.read_bytes()
    return found


def check_same(
    study: Callable[..., Run],
    settings: Any,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _here(tmp_path):
        expected = contents(study(settings, tmp_path / "here"))
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path / "another-cache"))
    with WAYS[way](tmp_path) as executor:
        found = contents(study(settings, tmp_path / "there", executor=executor))
    for both in (expected, found):  # the deltas name their round, and it says when it was made
        for name, value in both.items():
            if isinstance(value, tuple):
                value[1].pop("round_sha256", None)
                assert value[0], name
    assert found == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_single_round(
    way: str, files: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "MAX_EDITS", 2)  # so that six edits are three units
    settings = SingleRoundSettings(**files.options(edits_per_party=(2, 4)))
    check_same(single_round, settings, way, tmp_path, monkeypatch)


@pytest.mark.parametrize("way", WAYS)
def test_a_comparison_of_editors(
    way: str, files: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = files.options(editors=("MEMIT", "EMMET"), merge=("GLOBAL", "CollabEdit", "TIES"))
    check_same(compare_editors, EditorsSettings(**options), way, tmp_path, monkeypatch)


@pytest.mark.parametrize("way", ["2 processes, one killed"])
def test_several_rounds(
    way: str, files: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = files.options(rounds=2, merge=("GLOBAL", "CollabEdit", "TIES"))
    check_same(multi_round, MultiRoundSettings(**options), way, tmp_path, monkeypatch)
