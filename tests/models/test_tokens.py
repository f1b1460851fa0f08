from __future__ import annotations

import pytest
import torch

from collabedit.errors import ModelError, RequestError
from collabedit.models.tokens import PromptText, batches, encode, encode_edits, fill_template
from tests.conftest import make_tokenizer


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    ("template", "prompt", "subject"),
    [
        ("{}", "{} is a city in", "Paris"),  # at the start
        ("{}", "The capital of {} is", "France"),  # mid-prompt
        ("{}", "People say of {}", "Rome"),  # at the end
        ("{}", "{}'s mother tongue is", "O'Neill"),  # apostrophes around it
        ("The Paris of Paris. {}", "In Paris, {} is", "Paris"),  # repeated
        ("{}", "столица {} это", "Россия"),  # Cyrillic: several tokens a letter
        ("{}", "{}の首都は", "日本"),  # no spaces
        ("Because. {}", "{} is a", "Österreich"),
    ],
)
def test_the_subjects_last_token_is_found(
    template: str, prompt: str, subject: str, bos: bool
) -> None:
    tokenizer = make_tokenizer(bos=bos)
    text = fill_template(template, prompt, subject)
    (row,) = encode(tokenizer, [text])
    upto = tokenizer.decode(row.ids[: row.subject_last + 1], skip_special_tokens=True)
    before = tokenizer.decode(row.ids[: row.subject_last], skip_special_tokens=True)
    end = text.subject_span[1]  # type: ignore[index]
    assert len(upto.replace("\ufffd", "")) >= end - 1
    assert upto.startswith(text.text[:end])
    assert not before.startswith(text.text[:end])


def test_prompt_and_target_are_encoded_together() -> None:
    tokenizer = make_tokenizer(bos=True)
    (row,) = encode(tokenizer, [PromptText("The capital of France is", "Paris")])
    assert tokenizer.decode(row.target_ids) == " Paris"
    assert list(row.ids) == tokenizer("The capital of France is Paris").input_ids


def test_a_trailing_space_in_the_prompt_changes_nothing() -> None:
    tokenizer = make_tokenizer()
    first, second = encode(tokenizer, [PromptText("It is", "Rome"), PromptText("It is ", "Rome")])
    assert first == second


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [("中国的首都是", "纽约", "纽约"), ("It costs $", "57", "57"), ("def f():\n", "x", "x")],
)
def test_a_target_without_a_space_has_its_own_tokens(prompt: str, target: str, text: str) -> None:
    tokenizer = make_tokenizer()
    (row,) = encode(tokenizer, [PromptText(prompt, target)])
    assert tokenizer.decode(row.target_ids) == text
    assert tokenizer.decode(row.ids) == prompt + target


def test_a_template_can_ask_for_the_whole_sentence() -> None:
    template = "U: Complete: {} A:\n{answer}. END"
    text = fill_template(template, "The capital of {} is ", "France", "Rome")
    assert text.prompt == "U: Complete: The capital of France is A:\n"
    assert text.text == text.prompt + "The capital of France is Rome. END"
    assert text.subject_span is not None
    assert text.prompt[slice(*text.subject_span)] == "France"
    asked = fill_template(template, "What is the capital of {}?", "France", "Rome")
    assert asked.target == "Rome. END"
    assert fill_template(template, "Of {}", "France").target == ""


def test_no_edit_is_measured_at_the_first_position() -> None:
    tokenizer = make_tokenizer()
    texts = [
        fill_template("{}", "{} is", "R", "Rome"),
        fill_template("{}", "In {} it", "R", "Rome"),
    ]
    plain, led = encode(tokenizer, texts), encode_edits(tokenizer, texts)
    assert plain[0].subject_last == 0
    assert led[0].ids[1:] == plain[0].ids
    assert tokenizer.decode(led[0].ids[:1]) == "\n"
    assert led[0].target_ids == plain[0].target_ids
    assert led[0].subject_first == led[0].subject_last == 1
    assert led[1] == plain[1]  # others stay as they were
    with_bos = make_tokenizer(bos=True)
    assert encode_edits(with_bos, texts) == encode(with_bos, texts)


def test_an_empty_subject_span_is_refused() -> None:
    with pytest.raises(RequestError, match="no token"):
        encode(make_tokenizer(), [PromptText("Rome", "", (4, 4))])


def test_slow_tokenizers_are_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="fast tokenizer"):
        encode(Slow(), [PromptText("Rome")])


def test_batches_hold_every_row_once_within_the_budget() -> None:
    rows = [list(range(1, n + 1)) for n in (3, 9, 1, 4, 4, 20, 2)]
    seen = []
    for batch in batches(rows, max_tokens=12):
        width = batch.input_ids.shape[1]
        assert batch.input_ids.numel() <= max(12, width)
        for row, index in enumerate(batch.index.tolist()):
            length = len(rows[index])
            seen.append(index)
            assert batch.input_ids[row, :length].tolist() == rows[index]
            assert batch.attention_mask[row].sum() == length == batch.lengths[row]
            assert torch.all(batch.input_ids[row, length:] == 0)
    assert sorted(seen) == list(range(len(rows)))
