"""Every causal language model of ``transformers`` is edited correctly, or refused with a reason."""

from __future__ import annotations

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from collabedit.errors import ModelError
from collabedit.models import LanguageModel
from tools.check_architectures import (
    TABLE,
    Outcome,
    check_all,
    make_tokenizer,
    row,
    tiny_config,
)

#: One of each kind of outcome: output added unchanged, after norms and factors, several streams,
#: beside vision, states instead of keys; experts, loops, encoders, its own tokens.
FEW = [
    "cohere2",
    "cpmant",
    "falcon_h1",
    "gemma3",
    "gemma3n_text",
    "gemma4_text",
    "hrm_text",
    "lfm2",
    "mixtral",
    "qwen3_5_text",
]


def checked(kind: str) -> Outcome:
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        pytest.skip(f"this version of transformers has no {kind}")
    (outcome,) = check_all([kind])
    assert bool(outcome.weight) != bool(outcome.reason)
    return outcome


def check_the_documented(outcome: Outcome) -> None:
    text = TABLE.read_text("utf-8")
    if f"types in transformers {transformers.__version__}," in text and outcome.built:
        assert row(outcome) in text.splitlines()


@pytest.mark.parametrize("kind", FEW)
def test_a_few_are_as_documented(kind: str) -> None:
    check_the_documented(checked(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(FEW)))
def test_all_are_as_documented(kind: str) -> None:
    check_the_documented(checked(kind))


def test_encoders_are_refused() -> None:
    """They attend in both directions unless the configuration says otherwise."""
    config = tiny_config("bert")
    config.is_decoder = False
    hf = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in hf.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, 0.15)
    model = LanguageModel(hf, make_tokenizer(), "tiny-bert")
    with pytest.raises(ModelError, match="not a left-to-right language model"):
        model.check_layers([1])
