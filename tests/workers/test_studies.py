"""Studies give the same bytes here, on processes, on Ray, and when a worker is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from collabedit.editing import target_batches
from collabedit.evaluation import greedy
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
from collabedit.workers import model_workers, open_workers
from tests.experiments.studies import Tiny
from tests.workers.units import KillsOne

pytestmark = pytest.mark.slow  # all together

#: What no two runs have in common, whoever does the work.
TIMES = {"costs.json"}
MOMENTS = {"created", "round_sha256"}  # a round's digest covers when it was made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of two processors on this machine, whose workers have a cache of their own."""
    ray = pytest.importorskip("ray")
    cache = tmp_path_factory.mktemp("cache-of-ray")
    passed = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {**passed, "COLLABEDIT_CACHE": str(cache)}},
    )
    yield
    ray.shutdown()


def contents(run: Run) -> dict[str, Any]:
    """All that a run has found, by relative path: bytes, or tensors and what is said of them."""
    found: dict[str, Any] = {}
    for path in sorted(run.folder.rglob("*")):
        name = path.relative_to(run.folder).as_posix()
        if path.suffix == ".safetensors":
            tensors, about = load_tensors(path)
            exact = {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}
            said = {key: about[key] for key in about if key not in MOMENTS}
            found[name] = exact, said
        elif path.name == "round.json":
            found[name] = {k: v for k, v in read_json(path).items() if k not in MOMENTS}
        elif path.is_file() and path.name not in TIMES:
            found[name] = path.read_bytes()
    return found


def check_same(
    study: Callable[..., Run],
    settings: Any,
    place: Path,
    workers: str,
    *,
    killing: bool,
) -> None:
    """A study here, and on workers with an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        for where in ("here", "there"):
            patch.setenv("COLLABEDIT_CACHE", str(place / f"cache-{where}"))
            if where == "here":
                expected = contents(study(settings, place / where))
                continue
            with open_workers(workers) as executor:
                assert executor is not None
                chosen = KillsOne(executor, place / "killed") if killing else executor
                found = contents(study(settings, place / where, executor=chosen))
    assert (place / "killed").exists() is killing
    assert found == expected
    assert any(isinstance(value, tuple) and value[0] for value in found.values())
    assert any(isinstance(value, bytes) and b'"answers"' in value for value in found.values())


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("workers", "killing"), [("2", False), ("2", True), ("ray", False)])
def test_a_single_round(
    workers: str, killing: bool, files: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_batches, "MAX_EDITS", 2)  # so that six edits are three units
    monkeypatch.setattr(greedy, "_ROWS", 4)  # and their answers several
    monkeypatch.setattr(model_workers, "_TEXTS", 4)
    settings = SingleRoundSettings(**files.options(edits_per_party=(2, 4)))
    check_same(single_round, settings, tmp_path, workers, killing=killing)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("workers", "killing"), [("2", False), ("ray", True)])
def test_a_comparison_of_editors(workers: str, killing: bool, files: Tiny, tmp_path: Path) -> None:
    options = files.options(editors=("MEMIT", "EMMET"), merge=("GLOBAL", "CollabEdit", "TIES"))
    check_same(compare_editors, EditorsSettings(**options), tmp_path, workers, killing=killing)


def test_several_rounds(files: Tiny, tmp_path: Path) -> None:
    options = files.options(rounds=2, merge=("GLOBAL", "CollabEdit", "TIES"))
    check_same(multi_round, MultiRoundSettings(**options), tmp_path, "2", killing=True)
