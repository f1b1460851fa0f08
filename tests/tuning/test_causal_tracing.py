"""Causal tracing against one run at a time with plain hooks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collabedit.models import LanguageModel
from collabedit.models.tokens import PromptText, encode
from collabedit.requests import EditRequest, Record
from collabedit.tuning import causal_tracing
from collabedit.tuning.causal_tracing import (
    CausalTrace,
    Fact,
    embedding_deviation,
    known_facts,
    subject_noise,
    trace,
)
from tests.conftest import EXACT

#: One with the subject at the start, one with it in the middle, and one with it at the end.
FACTS = [
    Fact(tuple(range(20, 27)), range(2), 40),
    Fact(tuple(range(60, 71)), range(3, 6), 41),
    Fact(tuple(range(90, 95)), range(3, 5), 42),
]
DRAWS = 2
WINDOW = 2


def probability(
    model: LanguageModel, fact: Fact, noise: Tensor, states: dict[str, Tensor]
) -> float:
    """The answer's probability in one whole run of one row, with noise and with given states."""
    position = fact.subject[-1]

    def disturb(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[0, fact.subject.start : fact.subject.stop] += noise
        return output

    def put(state: Tensor) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            value = output[0] if isinstance(output, tuple) else output
            flat = value.view(-1, value.shape[-1])  # a single row
            flat[position] = state
            return output

        return hook

    with ExitStack() as stack, torch.no_grad():
        embedding = model.hf.get_input_embeddings()
        stack.callback(embedding.register_forward_hook(disturb).remove)
        for path, state in states.items():
            handle = model.module(path).register_forward_hook(put(state))
            stack.callback(handle.remove)
        logits = model.hf(torch.tensor([fact.ids])).logits[0, -1]
    return float(logits.softmax(dim=-1)[fact.answer])


def clean_states(model: LanguageModel, fact: Fact) -> dict[str, Tensor]:
    """The outputs of all layers and down-projections at the subject's last token, by path."""
    structure, found = model.structure, {}

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            found[path] = value.reshape(-1, value.shape[-1])[fact.subject[-1]].clone()

        return hook

    with ExitStack() as stack, torch.no_grad():
        for layer in range(structure.n_layers):
            for path in (structure.layer_path(layer), structure.projection_path(layer)):
                stack.callback(model.module(path).register_forward_hook(keep(path)).remove)
        model.hf(torch.tensor([fact.ids]))
    return found


def traced_plainly(model: LanguageModel, seed: int) -> CausalTrace:
    """The trace of ``FACTS``, one run at a time."""
    structure = model.structure
    scale = 3.0 * embedding_deviation(model, FACTS)
    noises = subject_noise(model, FACTS, DRAWS, scale, seed)
    layers = range(structure.n_layers)
    restorations = [[structure.layer_path(layer)] for layer in layers] + [
        [structure.projection_path(first + offset) for offset in range(WINDOW)]
        for first in range(structure.n_layers - WINDOW + 1)
    ]
    effects = torch.zeros(len(restorations), len(FACTS))
    clean, corrupted = torch.zeros(len(FACTS)), torch.zeros(len(FACTS))
    for number, (fact, noise) in enumerate(zip(FACTS, noises, strict=True)):
        states = clean_states(model, fact)
        clean[number] = probability(model, fact, torch.zeros_like(noise[0]), {})
        for draw in noise:
            without = probability(model, fact, draw, {})
            corrupted[number] += without / DRAWS
            for row, paths in enumerate(restorations):
                restored = probability(model, fact, draw, {path: states[path] for path in paths})
                effects[row, number] += (restored - without) / DRAWS
    means, errors = effects.mean(dim=1), effects.std(dim=1) / len(FACTS) ** 0.5
    return CausalTrace(
        facts=len(FACTS),
        examined=len(FACTS),
        draws=DRAWS,
        noise=scale,
        window=WINDOW,
        clean=float(clean.mean()),
        corrupted=float(corrupted.mean()),
        hidden=means[: len(layers)].tolist(),
        hidden_error=errors[: len(layers)].tolist(),
        mlp=means[len(layers) :].tolist(),
        mlp_error=errors[len(layers) :].tolist(),
    )


def assert_close(found: CausalTrace, expected: CausalTrace) -> None:
    for name in ("hidden", "hidden_error", "mlp", "mlp_error"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=EXACT), name
        assert max(map(abs, getattr(expected, name))) > 1e-5, name
    assert found.clean == pytest.approx(expected.clean, abs=EXACT)
    assert found.corrupted == pytest.approx(expected.corrupted, abs=EXACT)
    assert found.noise == expected.noise
    assert (found.facts, found.draws, found.window) == (len(FACTS), DRAWS, WINDOW)


def test_tracing_equals_one_run_at_a_time(exact_family_model: LanguageModel) -> None:
    """Each family, with padding beside the longest fact."""
    found = trace(exact_family_model, FACTS, window=WINDOW, draws=DRAWS, seed=5, quick=False)
    assert_close(found, traced_plainly(exact_family_model, seed=5))


@pytest.mark.parametrize("max_tokens", [1, 30])
def test_tracing_does_not_depend_on_the_batches(
    exact_llama: LanguageModel, max_tokens: int
) -> None:
    options: dict[str, Any] = {"window": WINDOW, "draws": DRAWS, "quick": False}
    together = trace(exact_llama, FACTS, **options)
    assert_close(trace(exact_llama, FACTS, **options, max_tokens=max_tokens), together)


def test_the_seed_decides_the_noise(tiny_llama: LanguageModel) -> None:
    options: dict[str, Any] = {"draws": DRAWS, "quick": False}
    first = trace(tiny_llama, FACTS, **options, seed=1)
    assert trace(tiny_llama, FACTS, **options, seed=1) == first
    assert trace(tiny_llama, FACTS, **options, seed=2).corrupted != first.corrupted


def test_without_noise_nothing_has_an_effect(exact_gpt2: LanguageModel) -> None:
    found = trace(exact_gpt2, FACTS, window=WINDOW, noise_scale=0.0, quick=False)
    assert found.corrupted == pytest.approx(found.clean, abs=EXACT)
    assert found.hidden + found.mlp == pytest.approx([0.0] * 7, abs=EXACT)


def test_the_last_state_of_the_last_token_is_all_that_counts(exact_llama: LanguageModel) -> None:
    """At the last layer only the last token's state is read."""
    fact = FACTS[2]  # ends with its subject
    found = trace(exact_llama, [fact], window=WINDOW, draws=DRAWS, quick=False)
    assert found.corrupted + found.hidden[-1] == pytest.approx(found.clean, abs=EXACT)
    assert found.hidden_error == [0.0] * 4
    longer = replace(fact, ids=(*fact.ids, 7))
    found = trace(exact_llama, [longer], window=WINDOW, draws=DRAWS, quick=False)
    assert found.hidden[-1] == pytest.approx(0.0, abs=EXACT)
    assert abs(found.hidden[0]) > 1e-6


def test_a_window_is_no_wider_than_the_model(tiny_llama: LanguageModel) -> None:
    found = trace(tiny_llama, FACTS, window=9, quick=False)
    assert found.window == 4
    assert len(found.mlp) == 1


def test_tracing_leaves_the_model_as_it_was(tiny_llama: LanguageModel) -> None:
    ids = torch.tensor([FACTS[0].ids])
    before = tiny_llama.hf(ids).logits
    trace(tiny_llama, FACTS, quick=False)
    assert torch.equal(tiny_llama.hf(ids).logits, before)


# What is known


OBJECTS = ("Paris", "Rome", "French", "guitar", "English", "Spain")


def records_of(model: LanguageModel, subjects: Sequence[str]) -> tuple[list[Record], list[float]]:
    """Records with the likeliest object as the true one, and its first token's probability."""
    records, probabilities = [], []
    for number, subject in enumerate(subjects):
        found = {}
        for text in encode(
            model.tokenizer, [PromptText(f"{subject} speaks the", o) for o in OBJECTS]
        ):
            with torch.no_grad():
                logits = model.hf(torch.tensor([text.ids[: text.target_start]])).logits[0, -1]
            found[text.target_ids[0]] = float(logits.softmax(dim=-1)[text.target_ids[0]])
        objects = sorted(zip(found.values(), OBJECTS, strict=True))
        (_, new), (probability, true) = objects[0], objects[-1]
        records.append(Record(EditRequest(number, "{} speaks the", subject, new, true)))
        probabilities.append(probability)
    return records, probabilities


def test_only_known_facts_are_traced(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama
    records, probabilities = records_of(model, ["Anna", "Berta", "Carl", "Dora", "Emil", "Frida"])
    threshold = sorted(probabilities)[2] * (1 - 1e-4)
    monkeypatch.setattr(causal_tracing, "KNOWN_PROBABILITY", threshold)
    expected = [probability >= threshold for probability in probabilities]
    assert any(expected)
    assert not all(expected)
    found, examined = known_facts(model, records, 10)
    assert examined == len(records)
    assert len(found) == sum(expected)
    kept = [record for record, known in zip(records, expected, strict=True) if known]
    for fact, record in zip(found, kept, strict=True):
        assert model.tokenizer.decode(fact.ids) == record.request.text
        subject = fact.ids[fact.subject.start : fact.subject.stop]
        assert model.tokenizer.decode(subject) == record.request.subject
        answer = model.tokenizer.decode([fact.answer])
        assert f" {record.request.target_true}".startswith(answer)
    assert known_facts(model, records, 1)[0] == found[:1]
    request = kept[0].request
    assert request.target_true is not None
    unlikely = replace(request, target_true=request.target_new, target_new=request.target_true)
    unnamed = replace(request, target_true=None)
    assert known_facts(model, [Record(unlikely), Record(unnamed)], 10) == ([], 2)
