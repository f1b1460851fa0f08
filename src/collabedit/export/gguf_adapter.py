"""A delta as a LoRA adapter in a GGUF file, which llama.cpp applies to any quantised base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
from gguf import GGMLQuantizationType, GGUFWriter

from collabedit.algebra import LowRankUpdate
from collabedit.errors import ModelError
from collabedit.export.base import Base
from collabedit.export.card import licence_of, model_card
from collabedit.export.gguf_file import NewTensor, add_tensors, tensor_names
from collabedit.export.gguf_model import card_of, check_output
from collabedit.export.registry import ExportJob
from collabedit.files import atomic_path, write_text

__all__ = ["architecture_of_model", "write_gguf_adapter"]

#: GGUF's names for architectures that ``transformers`` names differently.
_OTHER_NAMES = {
    "mistral": "llama",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "gpt2": "gpt2",
    "qwen2": "qwen2",
    "phi3": "phi3",
}


def architecture_of_model(base: Base) -> str:
    """GGUF's name for a model's architecture.

    Raises:
        ModelError: when GGUF has none.
    """
    kind = str(base.hf.config.model_type)
    name = _OTHER_NAMES.get(kind, kind)
    if name not in gguf.MODEL_ARCH_NAMES.values():
        raise ModelError(f"GGUF files have no architecture {kind!r}; export to another format")
    return name


def write_gguf_adapter(
    job: ExportJob, changes: Mapping[str, LowRankUpdate], loss: list[str]
) -> list[str]:
    """Write an adapter in float32.

    Args:
        job: the delta, its base model and the output.
        changes: the factors by weight name.
        loss: what truncation lost, for the card.
    """
    check_output(job.out, overwrite=job.overwrite)
    architecture = architecture_of_model(job.base)
    names = tensor_names(architecture, job.base.structure.n_layers, list(changes))
    rank = max(change.left.shape[1] for change in changes.values())
    tensors = {}
    for name, change in changes.items():
        # llama.cpp scales by alpha over each adapter's own rank
        scale = change.left.shape[1] / rank
        tensors[f"{names[name]}.lora_a"] = _float32(change.right)
        tensors[f"{names[name]}.lora_b"] = _float32(scale * change.left)
    evaluation = job.measured(changes)
    with atomic_path(job.out) as temporary:
        writer = GGUFWriter(temporary, architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        writer.add_string("collabedit.delta_sha256", job.delta.sha256)
        add_tensors(writer, tensors)
        temporary.chmod(0o644)
    card = model_card(
        job.delta,
        "A LoRA adapter in a GGUF file",
        undo="Load the base model without the adapter; it does not touch the base model's file.",
        licence=licence_of(job.base.directory, job.base.name),
        library="gguf",
        notes=loss,
        evaluation=evaluation,
    )
    write_text(card_of(job.out), card)
    return [f"Rank {rank}, {job.out.stat().st_size / 1e3:,.0f} kB"]


def _float32(matrix: Any) -> NewTensor:
    return NewTensor(matrix.float().contiguous().numpy(), GGMLQuantizationType.F32)
