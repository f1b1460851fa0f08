from __future__ import annotations

import pytest
import torch

from benchmarks.plain import plain_keys
from collabedit.editing import measure
from collabedit.editing.texts import texts_in
from collabedit.editors import bare_contexts, context_weights
from collabedit.models import LanguageModel
from collabedit.models.hooks import captured_inputs
from collabedit.models.tokens import encode_edits
from collabedit.requests import EditRequest
from tests.conftest import EXACT, make_model
from tests.editing.facts import CONTEXTS, REQUESTS, TALKS


def test_keys_equal_one_whole_pass_per_text(exact_family_model: LanguageModel) -> None:
    measured = measure(exact_family_model, REQUESTS, CONTEXTS, [1, 2], 2)
    for layer in (1, 2):
        for index, request in enumerate(REQUESTS):
            expected = plain_keys(exact_family_model, request, CONTEXTS, layer)
            torch.testing.assert_close(
                measured.keys[layer][:, index], expected, atol=EXACT, rtol=EXACT
            )


def test_the_hidden_state_is_the_layers_output_on_the_bare_prompt(
    exact_llama: LanguageModel,
) -> None:
    measured = measure(exact_llama, REQUESTS, CONTEXTS, [1], 2)
    for index, request in enumerate(REQUESTS):
        end = request.prompt.index("{}") + len(request.subject)
        ids = exact_llama.tokenizer(request.text[:end], return_tensors="pt").input_ids
        with torch.no_grad():
            states = exact_llama.hf(ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(
            measured.hidden[:, index], states[3][0, -1].double(), atol=EXACT, rtol=EXACT
        )


@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_the_batching_changes_nothing(exact_arithmetic: None, max_tokens: int) -> None:
    model = make_model("gpt2")
    whole = measure(model, REQUESTS, CONTEXTS, [0, 1], 1)
    parts = measure(model, REQUESTS, CONTEXTS, [0, 1], 1, max_tokens=max_tokens)
    torch.testing.assert_close(parts.keys[1], whole.keys[1], atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(parts.hidden, whole.hidden, atol=EXACT, rtol=EXACT)


def test_the_bare_prompt_has_half_the_weight() -> None:
    weights = dict(context_weights(CONTEXTS))
    assert weights["{}"] == 0.5
    assert sum(weights.values()) == pytest.approx(1.0)
    assert len({weight for template, weight in weights.items() if template != "{}"}) == 1


def test_plain_texts_and_conversations_have_a_key_each(exact_family_model: LanguageModel) -> None:
    """Each equals the plain way on its own templates, which weigh 1 together."""
    model = exact_family_model
    measured = measure(model, REQUESTS, TALKS, [1, 2], 2, separate=True)
    mean = measure(model, REQUESTS, TALKS, [1, 2], 2)
    assert measured.keys[1].shape[1] == measured.hidden.shape[1] == 2 * len(REQUESTS)
    for layer in (1, 2):
        plain, talks = measured.keys[layer][:, ::2], measured.keys[layer][:, 1::2]
        for index, request in enumerate(REQUESTS):
            expected = plain_keys(model, request, TALKS[:2], layer)
            torch.testing.assert_close(plain[:, index], expected, atol=EXACT, rtol=EXACT)
        torch.testing.assert_close((plain + talks) / 2, mean.keys[layer], atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(measured.hidden[:, ::2], mean.hidden, atol=EXACT, rtol=EXACT)
    first = measured.first_keys(2)
    assert torch.equal(first.keys[1], measured.keys[1][:, ::2])
    assert torch.equal(first.hidden, measured.hidden[:, ::2])


def test_the_second_hidden_state_is_the_mean_over_conversations(exact_llama: LanguageModel) -> None:
    measured = measure(exact_llama, REQUESTS, TALKS, [1], 2, separate=True)
    for index, request in enumerate(REQUESTS):
        states = []
        for template in TALKS[2]:
            (text,) = texts_in(template, request, target=False)
            (encoded,) = encode_edits(exact_llama.tokenizer, [text])
            ids = torch.tensor([encoded.ids[: encoded.subject_last + 1]])
            with torch.no_grad():
                output = exact_llama.hf(ids, output_hidden_states=True)
            states.append(output.hidden_states[3][0, -1].double())
        expected = torch.stack(states).mean(dim=0)
        torch.testing.assert_close(
            measured.hidden[:, 2 * index + 1], expected, atol=EXACT, rtol=EXACT
        )


def test_without_conversations_nothing_is_separate(exact_llama: LanguageModel) -> None:
    one = measure(exact_llama, REQUESTS, CONTEXTS, [1], 2)
    other = measure(exact_llama, REQUESTS, CONTEXTS, [1], 2, separate=True)
    assert torch.equal(one.keys[1], other.keys[1])
    assert torch.equal(one.hidden, other.hidden)


def test_measuring_an_edited_model_differs_only_above_the_edit(tiny_llama: LanguageModel) -> None:
    from tests.models.test_language_model import change

    (name,) = tiny_llama.weight_names([1])
    before = measure(tiny_llama, REQUESTS, CONTEXTS, [1, 2], 2)
    with tiny_llama.edited({name: change(tiny_llama)}):
        after = measure(tiny_llama, REQUESTS, CONTEXTS, [1, 2], 2)
    assert torch.equal(after.keys[1], before.keys[1])
    assert not torch.allclose(after.keys[2], before.keys[2])
    assert not torch.allclose(after.hidden, before.hidden)


@pytest.mark.slow
def test_a_leading_subject_does_not_get_the_attention_sinks_key(
    smollm2: LanguageModel,
) -> None:
    first = EditRequest(0, "{} was founded by", "Microsoft", "Steve Jobs")
    later = EditRequest(1, "The company {} was founded by", "Microsoft", "Steve Jobs")
    layer = 9
    keys = measure(smollm2, [first, later], bare_contexts(), [layer], layer).keys[layer]
    with torch.no_grad(), captured_inputs({layer: smollm2.projection(layer)}) as inputs:
        smollm2.hf(input_ids=torch.tensor([smollm2.tokenizer(first.text).input_ids]))
    sink = inputs[layer].reshape(-1, len(keys))[0]
    assert sink.norm() > 5 * keys[:, 1].norm()
    assert keys[:, 0].norm() < 2 * keys[:, 1].norm()
