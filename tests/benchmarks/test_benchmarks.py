"""Every benchmark runs at a tiny size, at which the plain way and ours agree."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as everything
from benchmarks import gpu, growth, hardware, keys, merge, startup
from benchmarks.machine import in_child, with_peak_memory
from benchmarks.products import operations
from benchmarks.report import require_agreement
from collabedit.algebra import Factors, Prior, relative_distance
from collabedit.datasets import load_dataset
from collabedit.editors import Hyperparameters
from collabedit.merging import collab_edit
from tests.conftest import make_model, save_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = make_model("llama", max_position_embeddings=512)
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return str(folder)


def run(monkeypatch: pytest.MonkeyPatch, stage: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [stage, *arguments])
    import_module(f"benchmarks.{stage}").main()


def test_keys(monkeypatch, capsys, model_folder) -> None:
    run(monkeypatch, "keys", "--model", model_folder, "--edits", "3", "--plain-edits", "2")
    printed = capsys.readouterr().out
    assert "together / plain" in printed
    assert "share of our time" in printed


def test_keys_that_differ_are_noticed(tiny_llama) -> None:
    request = load_dataset("worldfacts")[0].request
    found = keys.plain_measurement(tiny_llama, [request], gpu.CONTEXTS, [0, 1])
    changed = keys.padded_measurement(tiny_llama, [request], gpu.CONTEXTS, [0, 1])
    assert keys.difference(found, changed) < keys.TOLERANCE
    changed.keys[1].mul_(1.01)
    assert keys.difference(found, changed) > 1e-3


def test_operations_of_products_are_counted() -> None:
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert operations(lambda: [left @ right, left @ right]) == 2 * 2 * 3 * 5 * 7


def test_covariance(monkeypatch, capsys, model_folder) -> None:
    run(monkeypatch, "covariance", "--model", model_folder, "--tokens", "600", "--turns", "1")
    printed = capsys.readouterr().out
    assert "ours / bare" in printed
    assert "share of our time" in printed


def test_evaluation(monkeypatch, capsys, model_folder) -> None:
    run(
        monkeypatch, "evaluation", "--model", model_folder, "--records", "2", "--plain-records", "1"
    )
    assert "ours / plain" in capsys.readouterr().out


def test_targets(monkeypatch, capsys, model_folder) -> None:
    run(monkeypatch, "targets", "--model", model_folder, "--edits", "2", "--plain-edits", "1")
    *_, exactly = (
        float(line.split()[-1].rstrip("%"))
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("relative difference")
    )
    # In percent, between ours in float32 and the plain way: 25 steps amplify float32 rounding.
    assert abs(exactly) < 0.1


def test_subjects(monkeypatch, capsys, model_folder) -> None:
    run(monkeypatch, "subjects", "--model", model_folder, "--facts", "1", "2", "--alike")
    rows = capsys.readouterr().out.splitlines()[2:]
    held = [row.split(" | ")[1] for row in rows]
    assert held == ["one party", "one party", "2 parties, one each"]


def test_workers(monkeypatch, capsys, model_folder) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    run(monkeypatch, "workers", "--model", model_folder, "--edits", "4", "--tokens", "600")
    assert capsys.readouterr().out.count("sooner") == 4


@pytest.mark.parametrize("way", [merge.paper_way, merge.sampled_paper_way])
def test_merging(tmp_path, way) -> None:
    size = merge.Size(48, 16, parties=3, edits=4, speedup=1)
    outcomes = [
        merge.measured(each, size, tmp_path / each.__name__) for each in (merge.our_way, way)
    ]
    distance = merge._distance(tmp_path / "our_way", tmp_path / way.__name__)
    assert distance < merge.TOLERANCE
    assert outcomes[0].sent == 3 * 8 * 4 * (48 + 16)
    assert outcomes[1].sent == 3 * 8 * 48 * (48 + 16)


def test_merging_in_separate_processes(monkeypatch, capsys) -> None:
    run(monkeypatch, "merge", "--size", "small")
    assert "relative difference" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["dense", "sketched"])
def test_secure(monkeypatch, capsys, form) -> None:
    pytest.importorskip("cryptography")
    shape = ("--widths", "1536", "--forms", form, "--parties", "2", "--edits", "2")
    run(monkeypatch, "secure", *shape)
    *_, error, _ = capsys.readouterr().out.splitlines()[-1].split("|")
    assert float(error) < 1e-12
    run(monkeypatch, "secure", *shape, "--one-party")
    assert "not summed" in capsys.readouterr().out


def test_privacy(monkeypatch, capsys, model_folder, tmp_path) -> None:
    pytest.importorskip("cryptography")
    pytest.importorskip("matplotlib")
    quick = ("--facts", "104", "--target-steps", "1", "--bare", "--out", str(tmp_path))
    run(monkeypatch, "privacy", "--model", model_folder, *quick, "--steps", "uploads,sums,delta")
    found = json.loads((tmp_path / "findings.json").read_text())
    areas = {
        (each["attack"], each["question"], each["source"]): each["curve"]["auc"]["value"]
        for each in found
    }
    assert len(areas) == 2 * 3 + 4 * 3 + 5
    assert areas["span", "membership", "contribution of 1 edits"] == 1.0
    for parties in (2, 5, 10):
        # At least five standard errors of the area for 50 random scores among as many.
        assert abs(areas["span", "attribution", f"masked of {parties} parties"] - 0.5) < 0.3
    assert (tmp_path / "roc.png").stat().st_size > 1000


def test_growth(monkeypatch, capsys, model_folder) -> None:
    sizes = ["--edits", "1", "2", "999", "--parties", "2", "999", "--party-edits", "2"]
    limits = ["--steps", "2", "--budget-minutes", "1e-6"]
    limits += ["--memory-budgets", "50", "--budget-edits", "2"]
    run(monkeypatch, "growth", "--model", model_folder, *sizes, *limits)
    out = capsys.readouterr().out
    assert "left out: [999]" in out
    assert "~" in out  # two edits do not fit into the budget
    assert "MB for 2 edits" in out


def test_growth_is_drawn(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    measured, estimated = growth.Cost(1.0, 1000), growth.Cost(2.0, None)
    by_edits = {
        2: dict.fromkeys(growth.STAGES, measured),
        4: {**dict.fromkeys(growth.STAGES, measured), "targets": estimated},
    }
    by_parties = {1: dict.fromkeys(growth.PARTY_STAGES, measured)}
    growth.plot(by_edits, by_parties, 4, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_long_runs_beside_each_other(monkeypatch, capsys, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    first = {"records": 2, "ES": 100.0, "PS": 50.0, "NS": 50.0, "score": 60.0}
    later = {"records": 2, "ES": 50.0, "PS": 50.0, "NS": 50.0, "score": 50.0}
    summary = {
        "experiment": "multi-round",
        "settings": {"parties": 2, "edits_per_party": 50},
        "methods": {"CollabEdit": later},
        "measured_after": [1, 3],
        "rounds": {"CollabEdit": [[first], [first, later, later]]},
        "perplexity_by_round": {"CollabEdit": [20.0, 2500.0]},
        "tasks": {"CollabEdit": [{"capitals": {"acc": acc}} for acc in (1.0, 0.5)]},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    run(monkeypatch, "long_run", f"beta 0={tmp_path}", "--out", str(tmp_path / "plot.png"))
    out = capsys.readouterr().out
    assert "| 100 | 60.0 | 100.0, 50.0, 50.0 | 60.0 | 20.0 | 100 |" in out
    assert "| 300 | 54.5 | 66.7, 50.0, 50.0 | 60.0 | 2,500.0 | 50 |" in out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_parts_hold_every_index() -> None:
    parts = growth.split(range(10), 4)
    assert [index for part in parts for index in part] == list(range(10))
    assert {len(part) for part in parts} == {2, 3}
    assert len(growth.split(range(3), 8)) == 3


def test_startup(monkeypatch, capsys) -> None:
    run(monkeypatch, "startup", "--turns", "1")
    assert "imported: none" in capsys.readouterr().out


def test_heavy_imports_are_seen(monkeypatch) -> None:
    program = startup._LIST_IMPORTS.replace("import sys", "import sys, numpy", 1)
    monkeypatch.setattr(startup, "_LIST_IMPORTS", program)
    assert "numpy" in startup.heavy_imports()


def test_the_gpu_benchmark_ends_without_a_gpu(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run(monkeypatch, "gpu")
    assert "no CUDA device" in capsys.readouterr().out


def test_the_gpu_benchmark_runs_tiny_models(monkeypatch, capsys) -> None:
    run(monkeypatch, "gpu", "--tiny", "--edits", "2", "--steps", "2")
    assert capsys.readouterr().out.count("share of the floor") == 2


def test_a_large_model_within_a_limit() -> None:
    """In a separate process, to which the limit applies."""
    command = [sys.executable, "-m", "benchmarks.large", "--tiny", "--edits", "1", "--tokens", "64"]
    for limit, passes in (("4GB", True), ("0.2GB", False)):
        done = subprocess.run(
            [*command, "--limit", limit], capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) == passes, done.stderr
        assert ("peak of all stages" in done.stdout) == passes


def test_the_floor_counts_by_hand(tiny_llama) -> None:
    request = load_dataset("worldfacts")[0].request
    settings = Hyperparameters(layers=(0, 1), target_steps=3)
    tokens, suffix, predicted = gpu.token_counts(tiny_llama, [request])
    layer = gpu.matrix_numbers(tiny_llama.layer(0))
    assert layer == 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32
    head = 32 * len(tiny_llama.tokenizer)
    steps = 5 * 2 * (2 * layer * suffix + head * predicted)
    assert gpu.target_operations(tiny_llama, [request], settings) == steps + 2 * 4 * layer * tokens


def test_peak_memory_is_that_of_the_work() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux can reset its record of the peak")

    def work() -> int:
        return torch.ones(20_000_000, dtype=torch.float64).sum().item()

    result, memory = with_peak_memory(work)
    assert result == 20_000_000
    assert 150e6 < memory < 250e6
    assert with_peak_memory(lambda: None)[1] < 20e6


def test_a_child_process_has_as_many_threads() -> None:
    assert in_child(torch.get_num_threads) == torch.get_num_threads()


@pytest.mark.parametrize("difference", [1e-3, float("nan")])
def test_disagreement_ends_a_benchmark(difference) -> None:
    with pytest.raises(SystemExit, match="results"):
        require_agreement("results", difference, 1e-4)


def test_all_stages_run_in_turn(monkeypatch, capsys) -> None:
    seen = []

    def stage(name: str) -> SimpleNamespace:
        def main() -> None:
            seen.append((name, sys.argv[1:]))
            if name.endswith("merge"):
                raise SystemExit("results differ")

        return SimpleNamespace(main=main)

    monkeypatch.setattr(everything, "import_module", stage)
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    with pytest.raises(SystemExit, match="failed: merge, merge-gpt-j"):
        everything.main()
    assert seen == [(f"benchmarks.{name}", rest) for name, *rest in everything.STAGES.values()]
    assert ("benchmarks.merge", ["--size", "gpt-j"]) in seen
    assert "FAILED: results differ" in capsys.readouterr().out


def test_an_unknown_stage_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "nothing"])
    with pytest.raises(SystemExit):
        everything.main()
    assert "no such stage: nothing" in capsys.readouterr().err


def test_every_stage_exists() -> None:
    for module, *_ in everything.STAGES.values():
        assert callable(import_module(f"benchmarks.{module}").main)


def test_the_hardware_benchmark_compares_with_pooled_editing() -> None:
    """Its dense solve, which shares nothing with the merge, agrees with it up to rounding."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        Factors(*(torch.randn(d, 3, generator=generator, dtype=torch.float64) for d in (12, 5)))
        for _ in range(3)
    ]
    prior = Prior(2 * torch.eye(12, dtype=torch.float64))
    merged = collab_edit(parts, prior)
    assert relative_distance(merged, hardware._pooled(parts, prior)) < 1e-12
