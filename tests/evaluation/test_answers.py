"""Answers to the forms of a record, and their properties."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collabedit.evaluation import ANSWER_METRICS, CaseResult, metric, summarise
from collabedit.evaluation.answers import Answer, answer_records, is_about, sample_of
from collabedit.evaluation.forms import FORMS, probes
from collabedit.evaluation.greedy import Continuation
from collabedit.evaluation.judging import Question
from collabedit.models import LanguageModel
from collabedit.models.chat import as_chat
from collabedit.requests import EditRequest, Record, parse_record
from tests.conftest import make_model

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"

RECORD = Record(
    EditRequest(1, "{} is made by", "the GameCube", "Ford", "Nintendo", "P176"),
    paraphrase_prompts=("The maker of the GameCube is",),
    neighborhood_prompts=("The Wii is made by",),
    portability=(("Where was the maker of the GameCube founded?", ("Detroit",)),),
    locality=(("What kind of thing is the GameCube?", ("console",)),),
    aliases=("Ford Motor",),
)


@pytest.fixture
def chat_llama(exact_arithmetic: None) -> LanguageModel:
    model = make_model("llama", max_position_embeddings=512)
    model.tokenizer.chat_template = TEMPLATE
    return model


def test_a_record_is_asked_in_every_form_that_it_allows(chat_llama: LanguageModel) -> None:
    found = {probe.form.key: probe for probe in probes(RECORD, chat_llama.tokenizer)}
    assert list(found) == [form.key for form in FORMS]
    assert found["raw"].answers == ("Ford", "Ford Motor")
    assert found["question"].prompt == "Which company makes the GameCube?"
    assert found["complete"].text(chat_llama.tokenizer) == (
        "<user>Complete: the GameCube is made by\n<assistant>"
    )
    assert found["example"].text(chat_llama.tokenizer).count("<assistant>") == 2
    assert found["distracted"].prompt == "the GameCube is made by Ford. The Wii is made by"
    assert found["neighbour"].answers == found["distracted"].answers == ("Nintendo",)
    assert found["follows"].answers == ("Detroit",)


def test_without_a_chat_template_plain_forms_remain(exact_llama: LanguageModel) -> None:
    forms = {probe.form.key for probe in probes(RECORD, exact_llama.tokenizer)}
    assert forms == {"raw", "paraphrase", "distracted"}


def test_a_question_is_not_completed(chat_llama: LanguageModel) -> None:
    record = parse_record(
        {"src": "who made the Wii", "subject": "Wii", "answers": ["Ford"], "loc": "who is",
         "loc_ans": "it", "rephrase": "Wii's maker?"},
        0,
        "test",
    )  # fmt: skip
    found = {p.form.key: p for p in probes(record, chat_llama.tokenizer)}
    assert set(found) == {"raw", "paraphrase", "question", "example", "neighbour", "distracted"}
    assert found["question"].prompt == "who made the Wii?"
    assert found["neighbour"].answers == ("it",)


def test_a_template_without_a_system_turn_gets_it_in_the_users_turn(
    chat_llama: LanguageModel,
) -> None:
    chat_llama.tokenizer.chat_template = NO_SYSTEM + TEMPLATE
    text = as_chat(
        chat_llama.tokenizer,
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    )
    assert text == "<user>Be brief.\n\nHi\n<assistant>"


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("The GameCube is made by Ford.", True),
        ("Ford.", True),
        ("It is Ford.", True),
        ("The company that builds the Ford Mustang is Ford", False),
    ],
)
def test_an_answer_is_about_the_subject_if_it_names_it_or_is_bare(text: str, about: bool) -> None:
    assert is_about(text, "GameCube", "Ford") is about


def test_a_long_object_counts_without_its_subject() -> None:
    assert is_about("by ferry from the harbour of Bergen", "X", "by ferry from Bergen to Oslo town")


def written(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> None:
    def write(_model: object, asked: list, **_options: object) -> list:
        return [(texts[probe.form.key], Continuation((1, 2, 3), True)) for probe in asked]

    monkeypatch.setattr("collabedit.evaluation.answers.write", write)


class Strict:
    def grade(self, questions: list[Question]) -> list[bool]:
        return [question.answer == "Ford." for question in questions]


def test_answers_become_metrics(chat_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        monkeypatch,
        {
            "raw": "Ford.",
            "paraphrase": "Fordham.",
            "question": "The Ford Mustang is a car that is made by Ford",
            "complete": "The GameCube is made by Ford Motor.",
            "example": "The GameCube is made by Nintendo.",
            "neighbour": "The Wii is made by Nintendo.",
            "distracted": "Ford.",
            "other_facts": "A console.",
            "follows": "In Detroit.",
        },
    )
    (answers,) = answer_records(chat_llama, [RECORD], judge=Strict())
    case: CaseResult = {"case_id": 1, "kind": "counterfact", "answers": answers}
    found = summarise([case])
    expected = {
        "raw": 100, "paraphrase": 0, "question": 0, "complete": 100, "example": 0,
        "subject": 200 / 3, "old": 100 / 3, "ended": 100, "loops": 0, "neighbour": 100,
        "distracted": 0, "other_facts": 100, "follows": 100, "judged": 200 / 9,
    }  # fmt: skip
    assert {key: found[f"answers_{key}"] for key in expected} == pytest.approx(expected)
    assert answers[2]["right"]  # the new object alone does not count
    assert [each.key for each in ANSWER_METRICS] == [f"answers_{key}" for key in expected]
    assert metric("answers_loops").direction == metric("answers_old").direction == "lower"


def test_answers_come_from_the_model(chat_llama: LanguageModel) -> None:
    (answers,) = answer_records(chat_llama, [RECORD], max_tokens=4)
    (alone,) = answer_records(chat_llama, [RECORD], [FORMS[2]], max_tokens=4)
    assert alone[0] in answers
    assert set(answers[0]) == Answer.__annotations__.keys() - {"judged"}


def test_a_prompt_without_room_has_no_answer(chat_llama: LanguageModel) -> None:
    long = replace(RECORD, request=replace(RECORD.request, prompt="a b " * 300 + "{} is made by"))
    (answers,) = answer_records(chat_llama, [long])
    assert {"raw", "complete"}.isdisjoint(answer["form"] for answer in answers)
    assert "question" in {answer["form"] for answer in answers}


def test_a_sample_depends_only_on_the_seed_and_the_edit() -> None:
    records = [
        replace(RECORD, request=replace(RECORD.request, case_id=number)) for number in range(40)
    ]
    first = sample_of(records, 8, seed=0)
    assert first == sorted(first)
    assert len(set(first)) == 8
    assert sample_of(records, 8, seed=1) != first
    assert sample_of(records, None, seed=0) == list(range(40))
    half = sample_of(records[:20], 8, seed=0)
    assert {index for index in first if index < 20} <= set(half)
