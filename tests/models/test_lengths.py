from __future__ import annotations

from collections.abc import Callable

import pytest

from collabedit.covariance import SelfCorpus
from collabedit.covariance.corpus import Plan
from collabedit.editing import optimise_targets, sample_contexts
from collabedit.editing.texts import check_requests
from collabedit.editors import Hyperparameters, bare_contexts
from collabedit.errors import RequestError
from collabedit.evaluation import evaluate
from collabedit.models import LanguageModel
from collabedit.models.lengths import check_lengths, context_length
from collabedit.models.tokens import PromptText
from collabedit.parties import Party, new_round
from collabedit.requests import EditRequest, Record
from tests.conftest import make_model

SHORT = EditRequest(1, "The capital of {} is", "France", "Rome")
LONG = EditRequest(12, "The capital of {} is" + " a city" * 60, "France", "Rome", "Paris")
PADDED = EditRequest(13, "The capital of {} is", "France", "[PAD]", "Paris")
SETTINGS = Hyperparameters(layers=[1], target_steps=2)


def with_pad() -> LanguageModel:
    """A model whose tokenizer has a token beyond the embedding."""
    model = make_model("gpt2")
    model.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return model


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gpt_neo"])
def test_the_context_is_the_configurations(family: str) -> None:
    assert context_length(make_model(family)) == 128


def test_accepts_a_text_that_just_fits(tiny_gpt2: LanguageModel) -> None:
    def text(tokens: int) -> list[PromptText]:
        return [PromptText("a" * tokens)]

    count = len(tiny_gpt2.tokenizer("a" * 128)["input_ids"])
    assert count == 128
    check_lengths(tiny_gpt2, text(128), ["it"])
    with pytest.raises(
        RequestError, match="it: one of its texts has 129 tokens, and tiny-gpt2 takes"
    ):
        check_lengths(tiny_gpt2, text(129), ["it"])
    check_lengths(tiny_gpt2, [PromptText("a" * 127, "b")], ["it"])


@pytest.mark.parametrize(
    ("make", "request_", "reason"),
    [
        (lambda: make_model("gpt2"), LONG, "case 12: one of its texts has"),
        (lambda: make_model("opt"), LONG, "case 12: one of its texts has"),
        (with_pad, PADDED, r"case 13: tiny-gpt2 has no embedding for the token '\[PAD\]'"),
    ],
)
def test_names_texts_that_do_not_fit_before_any_work(
    make: Callable[[], LanguageModel], request_: EditRequest, reason: str
) -> None:
    model = make()
    config = new_round(model, hyperparameters=SETTINGS, contexts=bare_contexts())
    model.hf.forward = None  # which no check needs
    requests = [SHORT, request_]
    with pytest.raises(RequestError, match=reason) as caught:
        Party(model, requests, config)
    assert "France" not in str(caught.value)
    with pytest.raises(RequestError, match=reason):
        optimise_targets(model, requests, bare_contexts(), SETTINGS)
    with pytest.raises(RequestError, match=reason):
        evaluate(model, [Record(request=each) for each in requests])


def test_contexts_count_towards_the_length(tiny_gpt2: LanguageModel) -> None:
    contexts = (("{}",), ("word " * 60 + "{}",))
    check_requests(tiny_gpt2, [SHORT], bare_contexts())
    with pytest.raises(RequestError, match="case 1: one of its texts"):
        check_requests(tiny_gpt2, [SHORT], contexts)


def test_an_added_token_does_not_disturb_sampling() -> None:
    plain, added = make_model("gpt2"), with_pad()
    assert sample_contexts(added, 0) == sample_contexts(plain, 0)
    plan = Plan(60, 16, 60)
    one, other = (next(SelfCorpus(0).chunks(m, plan, 0, lambda _n: None)) for m in (plain, added))
    assert one == other
