"""A Llama's model directory as a GGUF file, for models without a published one.

Other architectures, and tokenizers that split text differently from those below, are left to
llama.cpp's own converter, which supports about a hundred architectures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType, GGUFWriter

from collabedit.errors import ModelError
from collabedit.export.base import Base
from collabedit.export.gguf_file import FILE_TYPES, NewTensor, add_tensors, packed, tensor_names
from collabedit.export.weights import opened, stored_names
from collabedit.files import atomic_path, read_json

__all__ = ["check_convertible", "write_llama"]

_CONVERTER = (
    "export it as a model directory (--to model) and convert that with llama.cpp's "
    "convert_hf_to_gguf.py, or name the base model's GGUF file with --base-gguf"
)
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_LLAMA_3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"


def check_convertible(name: str, config: Any, directory: Path | None) -> None:
    """Check, before any work, that a model can be converted.

    Args:
        name: the model's name.
        config: its ``transformers`` configuration.
        directory: directory of its files.

    Raises:
        ModelError: when it isn't a plain Llama with a known tokenizer; the message says what to do.
    """
    scaling = _rope(config).get("rope_type", "default")
    if config.model_type != "llama" or scaling != "default":
        what = config.model_type if config.model_type != "llama" else f"its {scaling} positions"
        raise ModelError(f"{name}: {what} cannot be converted to GGUF here; {_CONVERTER}")
    if directory is None or not stored_names(directory):
        raise ModelError(f"{name}: its safetensors files are not here; {_CONVERTER}")
    _splitter(directory, name)


def write_llama(base: Base, out: Path, precision: str, edited: Mapping[str, NewTensor]) -> None:
    """Write an edited Llama; matrices get one type, vectors stay in float32.

    Args:
        base: the unedited model.
        out: the file.
        precision: ``f16`` or ``q8_0``.
        edited: the edited weights by name in the model.
    """
    with atomic_path(out) as temporary:
        writer = GGUFWriter(temporary, "llama")
        _add_settings(writer, base, precision)
        _add_tokenizer(writer, base)
        add_tensors(writer, dict(_tensors(base, precision, edited)))
        temporary.chmod(0o644)


def _rope(config: Any) -> dict[str, Any]:
    """Settings of the rotary position embedding, in the format of transformers 5 or 4."""
    values = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    return {"rope_theta": getattr(config, "rope_theta", 10000.0), **(values or {})}


def _add_settings(writer: GGUFWriter, base: Base, precision: str) -> None:
    config = base.hf.config
    writer.add_name(f"{Path(base.name).name} edited")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(FILE_TYPES[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("collabedit.delta_sha256", base.delta.sha256)


def _head_size(config: Any) -> int:
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def _tensors(
    base: Base, precision: str, edited: Mapping[str, NewTensor]
) -> Iterator[tuple[str, NewTensor]]:
    if base.directory is None:
        return
    stored = stored_names(base.directory)
    tied = base.structure.tied_head
    wanted = [n for n in stored if not (tied and n == "lm_head.weight") and "rotary_emb" not in n]
    names = tensor_names("llama", base.structure.n_layers, wanted)
    for name, theirs in names.items():
        if name in edited:
            yield theirs, edited[name]
            continue
        with opened(base.directory / stored[name]) as file:
            weight = file.get_tensor(name).to(torch.float32).numpy()
        if weight.ndim < 2:
            yield theirs, NewTensor(weight, GGMLQuantizationType.F32)
        else:
            yield theirs, packed(_interleaved(name, weight, base.hf.config), precision, name)


def _interleaved(name: str, weight: Any, config: Any) -> Any:
    """Queries and keys with interleaved halves, as llama.cpp's rotation expects; others as is."""
    for part, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
        if name.endswith(f"self_attn.{part}_proj.weight"):
            halves = weight.reshape(heads, 2, -1, weight.shape[-1])
            return numpy.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
    return weight


def _splitter(directory: Path, name: str) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits text.

    Raises:
        ModelError: when it is unknown here.
    """
    path = directory / "tokenizer.json"
    values = read_json(path, "tokenizer") if path.is_file() else {}
    parts = values.get("pre_tokenizer") or {}
    steps = parts.get("pretokenizers", [parts])
    kinds = [step.get("type") for step in steps]
    if values.get("model", {}).get("type") == "BPE":
        if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and _LLAMA_3 in json.dumps(steps[0]).replace(
            "\\\\", "\\"
        ):
            return "llama-bpe"
    raise ModelError(f"{name}: its tokenizer cannot be converted to GGUF here; {_CONVERTER}")


def _add_tokenizer(writer: GGUFWriter, base: Base) -> None:
    if base.directory is None:
        return
    values = read_json(base.directory / "tokenizer.json", "tokenizer")
    added = {entry["id"]: entry for entry in values.get("added_tokens", [])}
    names = {number: text for text, number in values["model"]["vocab"].items()}
    names |= {number: entry["content"] for number, entry in added.items()}
    size = base.hf.config.vocab_size
    kinds = {n: _CONTROL if entry.get("special") else _USER_DEFINED for n, entry in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitter(base.directory, base.name))
    writer.add_token_list([names.get(n, f"[PAD{n}]") for n in range(size)])
    writer.add_token_types([kinds.get(n, _NORMAL if n in names else 5) for n in range(size)])
    special = gguf.SpecialVocab(base.directory, load_merges=True, n_vocab=size)
    special.add_to_gguf(writer, quiet=True)
