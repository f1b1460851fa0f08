"""Second moments of experts' keys: one matrix each, over all tokens."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from collabedit.covariance import collect
from collabedit.covariance.imported import import_npz
from collabedit.covariance.pooled import merge
from collabedit.covariance.sizing import default_tokens, memory_needed
from collabedit.errors import CovarianceError
from collabedit.messages import Covariance
from collabedit.models import LanguageModel
from collabedit.models.experts import keys_at
from collabedit.models.hooks import captured_inputs
from tests.conftest import make_model
from tests.covariance.conftest import TokenCorpus, random_windows
from tests.covariance.measuring import relative


@torch.no_grad()
def stacked(model: LanguageModel, layer: int, windows: list[list[int]]) -> Tensor:
    """All keys ``[tokens, n d_e]``, one window at a time."""
    found = []
    for window in windows:
        with captured_inputs({layer: model.projection(layer)}) as inputs:
            model.hf(torch.tensor([window]), use_cache=False)
        found.append(keys_at(inputs[layer]))
    return torch.cat(found)


@pytest.mark.parametrize("batch_tokens", [40, 500])
def test_each_expert_has_its_block_of_the_whole_moment(
    exact_mixture: LanguageModel, corpus: TokenCorpus, corpus_tokens: int, batch_tokens: int
) -> None:
    found = collect(exact_mixture, [2, 1], corpus, tokens=corpus_tokens, batch_tokens=batch_tokens)
    for name, layer in zip(exact_mixture.weight_names([1, 2]), [1, 2], strict=True):
        keys = stacked(exact_mixture, layer, corpus.windows)
        whole = (keys.T @ keys / len(keys)).view(4, 12, 4, 12)
        moment = found.second_moments[name]
        assert moment.shape == (4, 12, 12)
        assert torch.equal(moment, moment.mT)
        for expert in range(4):
            assert relative(moment[expert], whole[expert, :, expert]) < 1e-12


def test_the_blocks_bound_the_whole_moment(
    exact_mixture: LanguageModel, corpus: TokenCorpus, corpus_tokens: int
) -> None:
    """``C <= 2 diag(C_e)`` if a token uses two experts, so no change of text goes unnoticed."""
    found = collect(exact_mixture, [1], corpus, tokens=corpus_tokens)
    (moment,) = found.second_moments.values()
    keys = stacked(exact_mixture, 1, corpus.windows)
    whole, blocks = keys.T @ keys / len(keys), torch.block_diag(*moment)
    least = torch.linalg.eigvalsh(2 * blocks - whole)[0]
    assert least > -1e-12 * whole.norm()
    assert torch.linalg.eigvalsh(blocks - whole)[0] < 0  # once the blocks are not enough


def test_the_sampling_error_covers_all_blocks(corpus: TokenCorpus) -> None:
    found = collect(make_model("olmoe"), [1], corpus, tokens=300)
    (error,) = found.sampling_error.values()
    assert 0 < error < 1


def test_blocks_survive_saving(corpus: TokenCorpus, tmp_path: Path) -> None:
    model = make_model("mixtral")
    found = collect(model, [1], corpus, tokens=300, out=tmp_path / "c.safetensors")
    (name,) = model.weight_names([1])
    again = Covariance.load(tmp_path / "c.safetensors").second_moments[name]
    assert torch.equal(again, found.second_moments[name])
    both = merge([found, found])
    assert torch.allclose(both.second_moments[name], again, rtol=1e-12)


@pytest.mark.parametrize("damage", ["asymmetric", "negative", "nan", "nothing"])
def test_a_damaged_block_is_refused(corpus: TokenCorpus, tmp_path: Path, damage: str) -> None:
    model = make_model("mixtral")
    found = collect(model, [1], corpus, tokens=300)
    (moment,) = found.second_moments.values()
    if damage == "asymmetric":
        moment[2, 0, 3] += 1
    elif damage == "negative":
        moment[2, 3, 3] = -1
    elif damage == "nan":
        moment[2, 3, 3] = float("nan")
    else:
        moment.zero_()
    found.save(tmp_path / "c.safetensors")
    with pytest.raises(CovarianceError, match="the matrix of model"):
        Covariance.load(tmp_path / "c.safetensors")


def test_experts_that_no_token_reaches_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model("olmoe")
    with torch.no_grad():  # all experts alike, so that the same two are always chosen
        model.hf.get_parameter("model.layers.1.mlp.gate.weight").zero_()
    corpus = TokenCorpus(random_windows())
    with caplog.at_level(logging.WARNING):
        found = collect(model, [1], corpus, tokens=300)
    (moment,) = found.second_moments.values()
    idle = [expert for expert in range(4) if not moment[expert].any()]
    assert len(idle) == 2
    listed = ", ".join(map(str, idle))
    assert f"no token was routed to 2 of 4 experts ({listed})" in caplog.text


def test_few_tokens_cause_a_warning(corpus: TokenCorpus, caplog: pytest.LogCaptureFixture) -> None:
    collect(make_model("olmoe"), [1], corpus, tokens=20)
    assert "20 tokens cannot determine second moments of 48 inputs" in caplog.text
    assert "use more than 24" in caplog.text


def test_tokens_and_memory_are_those_of_the_experts() -> None:
    """Ten tokens per input of an expert with its share of them: two of four see each."""
    model = make_model("olmoe")
    assert default_tokens(model, TokenCorpus([])) == 10 * 12 * 4 // 2
    assert memory_needed(model, [0]) == 4 * 12**2 * (8 + 2.5)


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CovarianceError, match="is a mixture of experts"):
        import_npz({1: tmp_path / "x.npz"}, make_model("olmoe"))
