"""LoRA adapters: what PEFT makes of them, by its documented rules and with PEFT itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.export import export_lora
from collabedit.export.lora import VLLM_RANKS, adapter_rank, truncated
from collabedit.messages import Delta
from tests.conftest import FAMILIES
from tests.export.saving import load
from tests.export.test_registry import job

EPS = torch.finfo(torch.float32).eps


def random_update(d_out: int, d_in: int, rank: int) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(rank)
    left = torch.randn(d_out, rank, dtype=torch.float64, generator=generator)
    return LowRankUpdate(left, torch.randn(rank, d_in, dtype=torch.float64, generator=generator))


def rounding(change: LowRankUpdate) -> float:
    """A bound on the error of a float32 product of factors of this size."""
    exact = truncated(change).update
    rank = exact.left.shape[1]
    return float((rank + 3) * EPS * (exact.left.abs() @ exact.right.abs()).max())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_adapter_equals_the_change(tmp_path: Path, family: str) -> None:
    """Read as PEFT documents it: scale ``alpha / r`` times ``B A``, of the modules named."""
    task = job(tmp_path, "lora", family)
    export_lora(task)
    config = json.loads((task.out / "adapter_config.json").read_text())
    tensors = load_file(task.out / "adapter_model.safetensors")
    assert config["r"] == config["lora_alpha"] == 8
    assert config["fan_in_fan_out"] is (family == "gpt2")
    modules = {name.removesuffix(".weight") for name in task.delta.changes}
    assert hit_by(config, task.base.hf) == modules
    assert {name.rsplit(".lora_", 1)[0] for name in tensors} == {
        f"base_model.model.{module}" for module in modules
    }
    for name, change in task.delta.changes.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        assert a.dtype == b.dtype == torch.float32
        assert (a.shape, b.shape) == ((8, change.shape[1]), (change.shape[0], 8))
        error = (b.double() @ a.double() - change.dense()).abs().max()
        assert error <= rounding(change)


def hit_by(config: dict[str, Any], hf: Any) -> set[str]:
    """Modules that a configuration names, by the end of their path and their layer."""
    targets, layers = config["target_modules"], config["layers_to_transform"]
    found = set()
    for path, _ in hf.named_modules():
        if not any(path == target or path.endswith(f".{target}") for target in targets):
            continue
        number = re.match(r".*\.[^.]*\.(\d+)\.", path)
        if layers is None or (number and int(number[1]) in layers):
            found.add(path)
    return found


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "opt", "phi3", "gpt_neox"])
def test_peft_gives_the_edited_model(tmp_path: Path, family: str) -> None:
    peft = pytest.importorskip("peft")
    task = job(tmp_path, "lora", family)
    export_lora(task)
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "original", dtype=torch.float64
    )
    before = {name: hf.get_parameter(name).clone() for name in task.delta.changes}
    adapted = peft.PeftModel.from_pretrained(hf, task.out, autocast_adapter_dtype=False)
    merged = adapted.merge_and_unload()
    for name, change in task.delta.changes.items():
        moved = merged.get_parameter(name) - before.pop(name)
        moved = moved.T if task.base.structure.transposed else moved
        assert (moved - change.dense()).abs().max() <= 2 * rounding(change)
    others = load(tmp_path / "original").hf
    for name, parameter in others.named_parameters():
        if name not in task.delta.changes:
            assert torch.equal(merged.get_parameter(name).float(), parameter), name


def test_factors_are_balanced_at_their_own_rank() -> None:
    update = LowRankUpdate.sum([random_update(20, 30, 3), random_update(20, 30, 3)])
    assert update.left.shape[1] == 6
    exact = truncated(update)
    assert (exact.exact_rank, exact.error) == (3, 0.0)
    torch.testing.assert_close(exact.update.dense(), update.dense())
    left, right = exact.update.left, exact.update.right
    torch.testing.assert_close(left.T @ left, right @ right.T)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truncation_is_optimal_and_reports_its_error(rank: int) -> None:
    update = random_update(20, 30, 5)
    less = truncated(update, rank)
    values = torch.linalg.svdvals(update.dense())
    best = float(values[rank:].norm() / values.norm())
    assert less.error == pytest.approx(best, rel=1e-9)
    miss = (update.dense() - less.update.dense()).norm() / update.dense().norm()
    assert float(miss) == pytest.approx(best, rel=1e-9)
    assert less.update.left.shape[1] == rank


def test_a_zero_update_is_an_update() -> None:
    nothing = LowRankUpdate(torch.zeros(4, 2).double(), torch.zeros(2, 6).double())
    found = truncated(nothing)
    assert found.error == 0
    assert torch.equal(found.update.dense(), nothing.dense())


def test_ranks_are_those_of_vllm_or_exact() -> None:
    assert [adapter_rank(rank) for rank in (1, 8, 9, 129, 257, 512)] == [8, 8, 16, 256, 320, 512]
    assert adapter_rank(513) == 513 > VLLM_RANKS[-1]


def test_a_smaller_rank_reports_what_it_loses(tmp_path: Path) -> None:
    task = job(tmp_path, "lora")
    notes = export_lora(task, rank=1)
    assert "from rank 2 to 1, which loses" in notes[0]
    assert "--requests" in notes[2]
    assert notes[0] in (task.out / "README.md").read_text()
    assert json.loads((task.out / "adapter_config.json").read_text())["r"] == 8
    with pytest.raises(InputError, match="--rank must be 1 or more, found 0"):
        export_lora(task, rank=0)


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    task = job(tmp_path, "lora")
    export_lora(task)
    with pytest.raises(InputError, match="--overwrite"):
        export_lora(task)
    again = type(task)(task.base, task.out, overwrite=True)
    export_lora(again)
    (task.out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        export_lora(again)
    assert isinstance(task.delta, Delta)


def test_full_paths_are_used_if_another_module_has_the_same_suffix(tmp_path: Path) -> None:
    """As a vision tower's MLP may have."""
    task = job(tmp_path, "lora")
    task.base.hf.tower = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.Module() for _ in range(3)])}
    )
    for layer in task.base.hf.tower["layers"]:
        layer.mlp = torch.nn.ModuleDict({"down_proj": torch.nn.Linear(2, 2)})
    export_lora(task)
    config = json.loads((task.out / "adapter_config.json").read_text())
    assert config["layers_to_transform"] is None
    assert hit_by(config, task.base.hf) == {n.removesuffix(".weight") for n in task.delta.changes}
