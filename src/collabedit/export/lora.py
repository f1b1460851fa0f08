"""A delta as a LoRA adapter: for PEFT and vLLM, or as GGUF for llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.export.base import Base, check_dense
from collabedit.export.card import CARD, licence_of, model_card
from collabedit.export.registry import Evaluation, ExportJob, export_format
from collabedit.export.target import (
    RECORD,
    check_replaceable,
    explained_failures,
    replacement,
    saved_files,
)
from collabedit.files import check_writable, write_json, write_text

__all__ = ["Truncated", "adapter_rank", "export_lora", "truncated"]

#: Ranks that vLLM accepts; it refuses all others.
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
#: Singular values below this share of the largest are rounding errors of float64 products.
_ROUNDING = 1e-12
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Truncated:
    """The best approximation of an update with at most a given rank.

    Attributes:
        update: ``B A`` with factors of equal size, ``B^T B = A A^T``.
        exact_rank: rank of the update itself.
        error: ``|D - B A| / |D|`` in the Frobenius norm.
    """

    update: LowRankUpdate
    exact_rank: int
    error: float


def truncated(update: LowRankUpdate, rank: int | None = None) -> Truncated:
    """Balance an update's factors, at its own rank or a smaller one.

    Args:
        update: ``B A``.
        rank: maximum rank; the update's own by default.
    """
    left, middle = torch.linalg.qr(update.left)
    right, outer = torch.linalg.qr(update.right.T)
    u, values, v = torch.linalg.svd(middle @ outer.T, full_matrices=False)
    exact = max(1, int((values > _ROUNDING * values.max()).sum()))
    kept = exact if rank is None else min(rank, exact)
    root = values[:kept].sqrt()
    factors = LowRankUpdate(left @ u[:, :kept] * root, (root[:, None] * v[:kept]) @ right.T)
    whole = float(values.norm())
    lost = float(values[kept:exact].norm()) / whole if whole else 0.0
    return Truncated(factors, exact, lost)


def adapter_rank(exact: int) -> int:
    """The rank to pad to: the next one that vLLM accepts, or the exact one if it is above all."""
    return next((rank for rank in VLLM_RANKS if rank >= exact), exact)


@export_format("lora")
def export_lora(job: ExportJob, *, rank: int | None = None) -> list[str]:
    """A LoRA adapter: a directory for PEFT and vLLM, or a .gguf file for llama.cpp.

    Args:
        job: the delta, its base model and the output.
        rank: maximum rank of the adapter; less than the edits need loses part of them.
    """
    if rank is not None and rank < 1:
        raise InputError(f"--rank must be 1 or more, found {rank}")
    check_dense(job.base.name, job.base.structure, "a LoRA adapter")
    parts = {name: truncated(change, rank) for name, change in job.delta.changes.items()}
    changes = {name: part.update for name, part in parts.items()}
    loss = _loss(parts)
    if job.out.suffix.lower() == ".gguf":
        from collabedit.export.gguf_adapter import write_gguf_adapter

        return [*loss, *write_gguf_adapter(job, changes, loss)]
    return [*loss, *_write_adapter(job, changes, loss)]


def _loss(parts: Mapping[str, Truncated]) -> list[str]:
    """The loss by truncation, layer by layer."""
    lossy = {name: part for name, part in parts.items() if part.error > 0}
    notes = [
        f"Truncated: {name} from rank {part.exact_rank} to {part.update.left.shape[1]}, "
        f"which loses {100 * part.error:.1f} % of the change"
        for name, part in lossy.items()
    ]
    return [*notes, "Truncation may lose edits: measure them with --requests"] if notes else []


def _write_adapter(
    job: ExportJob, changes: Mapping[str, LowRankUpdate], loss: list[str]
) -> list[str]:
    check_replaceable(job.out, overwrite=job.overwrite)
    needed = max(change.left.shape[1] for change in changes.values())
    rank = adapter_rank(needed)
    config = _adapter_config(job.base, list(changes), rank)
    tensors: dict[str, Tensor] = {}
    for name, change in changes.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = _padded(change.right.T, rank).T.float().contiguous()
        tensors[f"{module}.lora_B.weight"] = _padded(change.left, rank).float()
    size = sum(4 * tensor.numel() for tensor in tensors.values())
    check_writable(job.out, size)
    evaluation = job.measured(changes)
    with explained_failures(job.out), replacement(job.out, overwrite=job.overwrite) as staged:
        save_file(tensors, staged / _WEIGHTS, metadata={"format": "pt"})
        write_json(staged / _CONFIG, config)
        write_text(staged / CARD, _card(job, loss, evaluation))
        record = {**job.delta.metadata.model_dump(mode="json"), "export": "lora"}
        write_json(staged / RECORD, {**record, "files": [*saved_files(staged), RECORD]})
    if rank in VLLM_RANKS:
        return [f"Rank {rank}, {size / 1e6:,.1f} MB; vLLM needs --max-lora-rank {rank} or more"]
    return [f"Rank {rank}, {size / 1e6:,.1f} MB; vLLM supports ranks up to {VLLM_RANKS[-1]} only"]


def _padded(matrix: Tensor, rank: int) -> Tensor:
    """A matrix ``[n, r]`` with columns of zeros up to ``rank``, contiguous."""
    padded = matrix.new_zeros(matrix.shape[0], rank)
    padded[:, : matrix.shape[1]] = matrix
    return padded


def _adapter_config(base: Base, names: list[str], rank: int) -> dict[str, Any]:
    """PEFT's ``adapter_config.json``; ``lora_alpha = r`` makes the scale one."""
    modules, layers = _targets(base, names)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "layers_to_transform": layers,
        "fan_in_fan_out": base.structure.transposed,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _targets(base: Base, names: list[str]) -> tuple[list[str], list[int] | None]:
    """The modules to adapt: their path within a layer and the layers, if that is unambiguous.

    PEFT matches every module whose path has this suffix: ``c_proj`` alone would also match GPT-2's
    attention, and a vision tower may have the same path. In such cases full paths are used.
    """
    wanted = {name.removesuffix(".weight") for name in names}
    layers = sorted(base.layer_of(name) for name in names)
    suffix = base.structure.down_projection
    matched = {
        path
        for path, _ in base.hf.named_modules()
        if path.endswith(f".{suffix}") and _peft_layer(path) in layers
    }
    return ([suffix], layers) if matched == wanted else (sorted(wanted), None)


def _peft_layer(path: str) -> int | None:
    """The layer that PEFT parses from a module's path."""
    match = re.match(r".*\.[^.]*\.(\d+)\.", path)
    return int(match[1]) if match else None


def _card(job: ExportJob, notes: list[str], evaluation: Evaluation) -> str:
    return model_card(
        job.delta,
        "A LoRA adapter",
        undo="Load the base model without the adapter, or unload it (`model.unload()` in PEFT); it "
        "does not touch the base model's files.",
        licence=licence_of(job.base.directory, job.base.name),
        library="peft",
        notes=notes,
        evaluation=evaluation,
    )
