"""Features of answers: keys and gradients, one text at a time and by plain autograd."""

from __future__ import annotations

import pytest
import torch

from collabedit.editing.gradients import answer_features
from collabedit.models import LanguageModel
from tests.conftest import EXACT, make_model
from tests.editing.facts import REQUESTS


def plain_features(model: LanguageModel, layer: int) -> torch.Tensor:
    columns = []
    for request in REQUESTS:
        whole = f"{request.text} {request.target_new}"
        offsets = model.tokenizer(whole, return_offsets_mapping=True)
        ids = torch.tensor([offsets.input_ids])
        start = next(
            i for i, (_, end) in enumerate(offsets.offset_mapping) if end > len(request.text)
        )
        seen = {}

        def keep(_module, args, output, seen=seen):
            seen["key"], seen["output"] = args[0], output.requires_grad_()
            output.retain_grad()

        with model.projection(layer).register_forward_hook(keep):
            logits = model.hf(ids[:, :-1]).logits[0, start - 1 :]
        torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum").backward()
        positions = slice(start - 1, None)
        both = [seen["key"].reshape(1, -1, model.structure.mlp_size)[0, positions]]
        both.append(seen["output"].grad.reshape(1, -1, model.structure.hidden_size)[0, positions])
        columns.append(torch.cat(both, dim=1).T)
    return torch.cat(columns, dim=1).detach().double()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "gemma2"])
@pytest.mark.usefixtures("exact_arithmetic")
def test_features_are_those_of_one_text_at_a_time(family: str) -> None:
    model = make_model(family, dtype=torch.float64)
    found = answer_features(model, REQUESTS, [1, 2])
    for layer, features in found.items():
        expected = plain_features(model, layer)
        assert features.shape == expected.shape
        assert (features - expected).norm() < EXACT * expected.norm()


def test_an_edits_features_do_not_depend_on_other_edits(exact_llama: LanguageModel) -> None:
    together = answer_features(exact_llama, REQUESTS, [2])[2]
    alone = [answer_features(exact_llama, [request], [2])[2] for request in REQUESTS]
    assert (together - torch.cat(alone, dim=1)).norm() < EXACT * together.norm()


def test_the_model_is_left_as_it_was(tiny_llama: LanguageModel) -> None:
    before = tiny_llama.state_fingerprint()
    answer_features(tiny_llama, REQUESTS, [1])
    assert tiny_llama.state_fingerprint() == before
    assert not any(parameter.requires_grad for parameter in tiny_llama.hf.parameters())
