"""The whole way of an edit in every family that the package names.

The families differ in what the package must not notice: fused and split projections (Phi-3, GPT-2,
GPT-NeoX and Falcon fuse some), transposed weights (GPT-2), a norm behind the MLP (Gemma, OLMo 2),
parallel attention (GPT-J, GPT-NeoX, Falcon), heads tied to the embedding or not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from collabedit.algebra import relative_distance
from collabedit.covariance import TextCorpus, collect
from collabedit.editing import measure
from collabedit.editors import Contexts, Hyperparameters, bare_contexts
from collabedit.errors import ModelError
from collabedit.export import save_edited_model
from collabedit.merging import resolve_method
from collabedit.messages import Covariance, Delta, RoundConfig, Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process
from tests.conftest import CORPUS, EXACT, FAMILIES, make_model, save_model
from tests.editing.facts import CONTEXTS, REQUESTS

pytestmark = pytest.mark.slow  # all together

#: Families whose MLP's output is normed before it is added.
NORMED = {"gemma2", "gemma3", "olmo2"}
SHARES = (REQUESTS[:1], REQUESTS[1:4])
CORPUS_OF_TEXT = TextCorpus("texts", {}, lambda: CORPUS)


def round_on(
    model: LanguageModel,
    editor: str = "MEMIT",
    contexts: Contexts = CONTEXTS,
    schedule: Schedule = Schedule.LAYERWISE,
) -> RoundConfig:
    layers = (1,) if model.structure.output_norm else (1, 2)
    settings = Hyperparameters(
        layers=layers, prior_weight=5.0, target_steps=3, target_learning_rate=0.1
    )
    return new_round(
        model, editor=editor, schedule=schedule, hyperparameters=settings, contexts=contexts
    )


def covariance_of(model: LanguageModel, config: RoundConfig) -> Covariance:
    return collect(model, config.layers, CORPUS_OF_TEXT, tokens=100, max_length=32)


def parties_of(model: LanguageModel, config: RoundConfig) -> list[Party]:
    return [Party(model, share, config) for share in SHARES]


def merged(config: RoundConfig, parties: list[Party], covariance: Covariance, method: str) -> Delta:
    coordinator = Coordinator(config, static_priors(config, covariance), resolve_method(method))
    return run_in_process(parties, coordinator)


def logits(hf: transformers.PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return hf(torch.arange(2, 14)[None]).logits


def check_merging(model: LanguageModel, schedule: Schedule) -> Delta:
    """CollabEdit's delta, once it is found to be that of the pooled edits.

    In a one-shot round the pooled party takes what the parties measured, so that the two deltas
    differ by the solve in float64 alone, whatever the model's type. In a layerwise round it
    measures for itself, beside other texts, and only a float64 model gives the same keys then.
    """
    config = round_on(model, schedule=schedule)
    covariance = covariance_of(model, config)
    parties = parties_of(model, config)
    delta = merged(config, parties, covariance, "CollabEdit")
    pooled = merged(config, [Party.pooled(parties)], covariance, "GLOBAL")
    for name, change in pooled.changes.items():
        assert relative_distance(delta.changes[name], change) < EXACT
        assert change.dense().norm() > 0.01
    return delta


def check_the_whole_way(model: LanguageModel, folder: Path) -> None:
    delta = check_merging(model, Schedule.ONE_SHOT)
    unedited = logits(model.hf)
    save_edited_model(model, delta, folder)
    edited = logits(model.hf)
    assert not torch.allclose(edited, unedited)
    saved = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert saved.dtype == model.dtype
    assert torch.equal(logits(saved.eval()), edited)


def test_layerwise_rounds_are_merged_exactly(exact_family_model: LanguageModel) -> None:
    check_merging(exact_family_model, Schedule.LAYERWISE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_edits_are_merged_exactly_saved_and_loaded(family: str, dtype: str, tmp_path: Path) -> None:
    unedited = make_model(family)
    save_model(unedited, tmp_path / "model")
    model = load_model(str(tmp_path / "model"), dtype=dtype, device="cpu")
    assert model.dtype == getattr(torch, dtype)
    check_the_whole_way(model, tmp_path / "edited")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "opt", "phi3"])
def test_tied_and_untied_heads(family: str, tied: bool, tmp_path: Path) -> None:
    model = make_model(family, tie_word_embeddings=tied)
    assert model.structure.tied_head is tied
    head = model.head.weight.clone()
    check_the_whole_way(model, tmp_path / "edited")
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_tokenizers_padding_side_changes_nothing(family: str) -> None:
    model = make_model(family)
    found = []
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        config = round_on(model)
        covariance = covariance_of(model, config)
        found.append(merged(config, parties_of(model, config), covariance, "CollabEdit").changes)
    left, right = found
    assert all(torch.equal(left[name].dense(), right[name].dense()) for name in left)


def test_an_edit_without_slack_reaches_its_target(exact_family_model: LanguageModel) -> None:
    """So residuals are of what the weight adds to: a norm or a factor between would show."""
    model = exact_family_model
    config = round_on(model, "EMMET", bare_contexts())
    party = Party(model, REQUESTS[:2], config)
    delta = merged(config, [party], covariance_of(model, config), "GLOBAL")

    def hidden() -> Tensor:
        return measure(model, party.requests, bare_contexts(), (), config.layers[-1]).hidden

    wanted, before = party.targets.double(), hidden()
    with model.edited(delta.changes):
        assert (hidden() - wanted).norm() < EXACT * (wanted - before).norm()


@pytest.mark.parametrize("family", sorted(NORMED))
def test_several_layers_behind_norms_are_refused(family: str) -> None:
    model = make_model(family)
    settings = Hyperparameters(layers=(1, 2))
    with pytest.raises(ModelError, match=r"a single layer can be edited; give one of \[1, 2\]"):
        new_round(model, hyperparameters=settings, contexts=CONTEXTS)
