from __future__ import annotations

import json
from pathlib import Path

import pytest

from collabedit.editing.contexts import chat_contexts, sample_contexts
from collabedit.editing.texts import texts_in
from collabedit.editors import load_contexts
from collabedit.errors import InputError, ModelError
from collabedit.models import LanguageModel
from collabedit.models.tokens import encode
from tests.conftest import make_tokenizer
from tests.editing.facts import REQUESTS


def test_contexts_are_seeded(tiny_llama: LanguageModel) -> None:
    first = sample_contexts(tiny_llama, 3)
    assert first == sample_contexts(tiny_llama, 3)
    assert first != sample_contexts(tiny_llama, 4)
    bare, prefixed = first
    assert bare == ("{}",)
    assert len(prefixed) == 5
    assert all(template.count("{}") == 1 and template.endswith(". {}") for template in prefixed)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([["{}"], ["no place"]], "exactly once"),
        ([["So. {}"]], "bare prompt"),
        ([["{}"], []], "non-empty"),
        (["{}"], "list of groups"),
    ],
)
def test_bad_contexts_are_refused(tmp_path: Path, value: object, message: str) -> None:
    path = tmp_path / "contexts.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=message):
        load_contexts(path)


CHAT = (
    "{% for turn in messages %}[{{ turn.role }}]{{ turn.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize("bos", [False, True])
def test_in_chat_contexts_the_assistant_says_the_whole_sentence(bos: bool) -> None:
    tokenizer = make_tokenizer(bos=bos)
    assert chat_contexts(tokenizer) == ()
    tokenizer.chat_template = ("<s>" if bos else "") + CHAT
    (complete, asked), (about,) = chat_contexts(tokenizer)
    assert complete == "[user]Complete: {}</s>\n[assistant]{answer}.</s>"
    assert asked == "[user]{question}</s>\n[assistant]{answer}.</s>"
    assert about == "[user]What is {subject}?</s>\n[assistant]{subject} is a"
    (row,) = encode(tokenizer, texts_in(asked, REQUESTS[0]))
    assert row.ids[:2].count(tokenizer.bos_token_id) == int(bos)
    assert tokenizer.decode(row.target_ids) == "The capital of France is Rome.</s>"


@pytest.mark.parametrize(
    "template",
    ["{% for %}", "{{ raise_exception('no') }}", "{{ range(10**9) | list }}", "{{ x.y }}"],
)
def test_a_chat_template_that_fails_is_named(template: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=r"the chat template of .* fails"):
        chat_contexts(tokenizer)


def test_a_chat_template_with_braces_of_its_own_is_left_out() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ '{}' }}" + CHAT
    assert chat_contexts(tokenizer) == ()
