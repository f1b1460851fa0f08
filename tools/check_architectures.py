"""Which architectures can be edited: tiny random models of all causal LMs of ``transformers``.

Each is built from its own configuration class, made small through settings with known names; its
structure is inferred, layers are tried (``LanguageModel.tail``), and targets are optimised for one
step. Writes the table in ``docs/reference/models.md``, or prints that of some types:

    python tools/check_architectures.py
    python tools/check_architectures.py llama gemma2
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from collabedit.editing import optimise_targets
from collabedit.editors import Hyperparameters, bare_contexts
from collabedit.errors import CollabEditError
from collabedit.models import LanguageModel
from collabedit.models.trial import check_causal
from collabedit.requests import EditRequest

TABLE = Path(__file__).parents[1] / "docs" / "reference" / "models.md"
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"
#: Small values, with the various names that configurations use for the same setting.
_SIZES = {
    32: "hidden_size d_model n_embd dim embedding_size embed_dim emb_dim n_embed lru_width "
    "word_embed_proj_dim model_dim altup_size mamba_d_ssm embedding_dim",
    48: "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dff "
    "inner_dim dim_ff d_ff mlp_hidden_size",
    4: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers depth "
    "num_decoder_layers num_encoder_layers num_attention_heads n_head n_heads num_heads "
    "decoder_attention_heads encoder_attention_heads num_encoder_attention_heads "
    "num_decoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts "
    "mamba_n_heads n_mamba_heads mamba_num_heads rotary_dim laurel_rank patch_size",
    2: "num_key_value_heads num_kv_heads num_experts_per_tok moe_k num_experts_per_token "
    "linear_num_key_heads linear_num_value_heads num_global_key_value_heads",
    8: "head_dim global_head_dim kv_channels attention_head_size qk_rope_head_dim "
    "qk_nope_head_dim v_head_dim kv_lora_rank linear_key_head_dim linear_value_head_dim "
    "mamba_d_head mamba_headdim mamba_head_dim mamba_d_state state_size ssm_state_size "
    "hidden_size_per_layer_input swa_head_dim dim_model_base",
    16: "q_lora_rank qk_head_dim sliding_window moe_intermediate_size image_size "
    "shared_expert_intermediate_size",
    1: "mamba_n_groups n_groups mamba_expand n_shared_experts n_group topk_group pad_token_id "
    "eos_token_id num_mem_blocks first_k_dense_replace scale_emb scale_depth",
    0: "bos_token_id num_kv_shared_layers",
    128: "max_position_embeddings n_positions n_ctx max_seq_len seq_length max_seq_length "
    "max_target_positions original_max_position_embeddings",
    320: "vocab_size vocab_size_per_layer_input",
}
SMALL = {name: size for size, names in _SIZES.items() for name in names.split()}
#: Exceptions that the names don't cover.
SPECIAL: dict[str, dict[str, Any]] = {
    "falcon": {"head_dim": None},
    "xlstm": {"v_head_dim": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "prophetnet": {"num_hidden_layers": None},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "axial_pos_embds": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "gemma3n_text": {"intermediate_size": [48] * 4, "activation_sparsity_pattern": [0.0] * 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "roc_bert": {"shape_vocab_size": 32, "pronunciation_vocab_size": 32},
    "xmod": {"default_language": "en_XX"},
    "mpt": {"expansion_ratio": 2},
    "minicpm3": {"num_key_value_heads": 4},
    "youtu": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "xlnet": {"max_position_embeddings": None},
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "granite": {"residual_multiplier": 0.5},
    "granite_swa": {"residual_multiplier": 0.5},
}
_LARGEST = 60_000_000  # parameters; models that can't be made smaller are examined without weights


@dataclass(frozen=True)
class Outcome:
    """The result for one architecture.

    Attributes:
        kind: its model type.
        weight: the edited weight of layer 1, if it can be edited.
        several: whether several layers can be edited together.
        short: whether targets are found without whole passes.
        reason: why it can't be edited, or couldn't be tried.
        built: whether a tiny model could be built and runs.
    """

    kind: str
    weight: str = ""
    several: bool = False
    short: bool = False
    reason: str = ""
    built: bool = True


def tiny_config(kind: str) -> Any:
    """A small configuration of a model type."""
    return _small(CONFIG_MAPPING[kind], SPECIAL.get(kind, {}))


def _small(cls: Any, special: dict[str, Any]) -> Any:
    usual = cls()
    known = usual.to_dict()
    values: dict[str, Any] = {}
    for name, value in SMALL.items():
        scalar = not isinstance(known.get(name), list | tuple | dict)
        if (name in known or hasattr(usual, name)) and scalar:
            values[name] = value
    if "is_decoder" in known:
        values["is_decoder"] = True  # otherwise attention is bidirectional
    for name in getattr(cls, "sub_configs", {}):
        part = getattr(usual, name, None)
        if part is not None:
            values[name] = _small(type(part), {})
    values.update(special)
    return cls(**{name: value for name, value in values.items() if value is not None})


def make_tokenizer() -> Any:
    """A byte-level tokenizer whose ids all tiny models embed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["The capital of France is Paris."],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def tiny_model(kind: str) -> LanguageModel:
    """A random model of a type, with weights large enough for hidden states to differ."""
    config = tiny_config(kind)
    with torch.device("meta"):
        size = sum(
            p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters()
        )
    if size > _LARGEST:
        raise MemoryError(f"it has {size / 1e6:,.0f} million parameters at least")
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.ndim == 2 or "experts" in name:
                parameter.normal_(0.0, 0.15)
        for name, buffer in hf.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(0.5)  # not 1, as in released models
    return LanguageModel(hf.float(), make_tokenizer(), f"tiny-{kind}")


def check(kind: str) -> Outcome:
    """Build a tiny model of a type and try to edit it."""
    try:
        model = tiny_model(kind)
    except CollabEditError as error:
        return Outcome(kind, reason=str(error).partition(": ")[2])
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Outcome(kind, reason=first, built=False)
    try:
        return tried(kind, model)
    except CollabEditError as error:
        return Outcome(kind, reason=str(error).partition(": ")[2], built=not error.__cause__)


def tried(kind: str, model: LanguageModel) -> Outcome:
    """Try layers 1 and 2 of a model, and targets for layer 1."""
    tails = [model.tail(layer) for layer in (1, 2)]
    check_causal(model, 1)
    settings = Hyperparameters(layers=(1,), target_steps=2)
    requests = [EditRequest(1, "The capital of {} is", "France", "Paris")]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        targets = optimise_targets(model, requests, bare_contexts(), settings)
    if not bool(targets.isfinite().all()):
        return Outcome(kind, reason="its targets are not finite")
    return Outcome(
        kind,
        weight=model.structure.weight_name(1).replace(".1.", ".N.", 1),
        several=all(tail.direct for tail in tails),
        short="take longer" not in said.getvalue(),
    )


def check_all(kinds: Sequence[str]) -> Iterator[Outcome]:
    """Check types one by one, hiding what libraries print."""
    transformers.logging.set_verbosity_error()
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield check(kind)


def table(outcomes: Sequence[Outcome]) -> str:
    """The table of the documentation, in Markdown."""
    edited = [o for o in outcomes if o.weight]
    refused = [o for o in outcomes if o.built and not o.weight]
    unbuilt = [o for o in outcomes if not o.built]
    lines = [
        f"Of the {len(outcomes)} types in transformers {transformers.__version__}, {len(edited)} "
        f"can be edited, {len(refused)} are refused, and {len(unbuilt)} were not tried.",
        "",
        "| model type | edited weight of layer N | layers | targets |",
        "|---|---|---|---|",
        *map(row, edited),
    ]
    lines += ["", "Refused:", "", "| model type | reason |", "|---|---|"]
    lines += map(row, refused)
    lines += ["", "Not tried, since no tiny model could be made or run:", ""]
    lines += [", ".join(o.kind for o in unbuilt) + "."]
    return "\n".join(lines)


def row(outcome: Outcome) -> str:
    """One row of the table."""
    if not outcome.weight:
        return f"| {outcome.kind} | {_cell(outcome.reason)} |"
    layers = "several" if outcome.several else "one"
    way = "quick" if outcome.short else "whole texts"
    return f"| {outcome.kind} | `{outcome.weight}` | {layers} | {way} |"


def _cell(text: str) -> str:
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", help="model types; all by default")
    options = parser.parse_args()
    kinds = options.kinds or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    outcomes = []
    for outcome in check_all(kinds):
        outcomes.append(outcome)
        print(outcome, file=sys.stderr, flush=True)
    if options.kinds:
        print(table(outcomes))
        return
    before, _, rest = TABLE.read_text("utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    TABLE.write_text(f"{before}{_BEGIN}\n\n{table(outcomes)}\n\n{_END}{after}", "utf-8")


if __name__ == "__main__":
    main()
