"""Every form of a record, in records made up after each data set's description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import RequestError
from collabedit.requests import (
    Record,
    load_records,
    parse_record,
    parse_records,
    read_requests,
    request_formats,
)
from collabedit.requests.formats import recognise

SHORT = {"prompt": "The capital of {} is", "subject": "Freedonia", "target": "Marxville"}
FLAT = {
    "relation": "capital",
    "relation_prefix": "The capital of",
    "relation_suffix": "is",
    "relation_id": "P36",
    "prompt": "The capital of Freedonia is",
    "subject": "Freedonia",
    "target_true": " Fredville",
    "target_false": " Marxville",
    "target_true_id": "Q1",
    "target_false_id": "Q2",
}
KNOWEDIT = {
    "subject": "Freedonia",
    "prompt": "Which city is the capital of Freedonia?",
    "target_new": "Marxville",
    "ground_truth": ["Fredville", "Fred's Ville"],
    "rephrase_prompt": "What is Freedonia's capital?",
    "portability": {
        "Reasoning": [
            {"prompt": "The mayor of its capital is", "ground_truth": [["Ann", "Anne"], ["A."]]}
        ],
        "Subject_Aliasing": [
            {"prompt": "The capital of the Free State is", "ground_truth": "Marxville"},
            {"prompt": "Not answered", "ground_truth": [[""]]},
        ],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The anthem of Freedonia is", "ground_truth": [["Hail"]]}
        ]
    },
}
EASYEDIT = {
    **{key: KNOWEDIT[key] for key in ("subject", "prompt", "target_new")},
    "ground_truth": "Fredville",
    "locality": {
        "neighborhood": {"prompt": ["Q one?", "Q two?"], "ground_truth": ["one", "two"]},
    },
    "locality_prompt": "Q three?",
    "locality_ground_truth": "three",
}
QAEDIT = {
    "id": 7,
    "source": "SQA",
    "prompt": "When was the Ada-7 released?",
    "target": "2002",
    "subject": "ada-7",
    "rephrase": "In which year did the Ada-7 come out?",
    "locality": [{"loc": "who wrote it", "loc_ans": "Bo"}, {"loc": "where", "loc_ans": "there"}],
}
WIKIBIO = {
    "text": "This is a passage about Ada Sample.",
    "labels": "She wove.",
    "concept": "Ada Sample",
    "locality": {"Relation_Specificity": [{"prompt": "Ada Sample died in", "ground_truth": ["Y"]}]},
}
MQUAKE = {
    "case_id": 9,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "subject": "Vin Sample",
            "target_new": {"str": "Libya", "id": "Q1016"},
            "target_true": {"str": "Peru", "id": "Q419"},
            "question": "Of which country is Vin Sample a citizen?",
        },
        {
            "prompt": "The capital of {} is",
            "relation_id": "P36",
            "subject": "Libya",
            "target_new": {"str": "Oslo", "id": "Q585"},
            "target_true": {"str": "Tripoli", "id": "Q3579"},
            "question": "What is Libya's capital?",
        },
    ],
    "questions": ["What is the capital of Vin Sample's country?", "And in other words?"],
    "answer": "Lima",
    "answer_alias": [],
    "new_answer": "Oslo",
    "new_answer_alias": ["Kristiania"],
    "single_hops": [],
    "new_single_hops": [],
    "orig": {},
}
HALLUEDIT = {
    "topic": "brand",
    "subject": "Acme",
    "relation": "founded by",
    "object": "Bo Li",
    "question": "Who was Acme founded by?",
    "output_some_model": "Al Ra",
    "eval_some_model": "0.0",
    "multiple_choices": "['Bo Li', 'Al Ra']",
    "paraphrased_question": "Who founded Acme?",
    "multiple_choice_with_letters": "A. Bo Li  B. Al Ra",
    "multiple_choice_labels": "A",
    "yes_question": "Was Acme founded by Bo Li?",
    "no_question": "Was Acme founded by Al Ra?",
    "locality_question": "What does Acme sell?",
    "reversed_relation_question": "What did Bo Li found?",
    "question_2hop": "Where was Acme's founder born?",
    "answer_2hop": "Lima",
}
WIKIBIGEDIT = {
    "tag": "new",
    "subject": "Acme",
    "update": "Who leads Acme?",
    "ans": "Bo Li",
    "rephrase": "Who is Acme's head?",
    "personas": "Yo, who runs Acme?",
    "mhop": "Where was Acme's head born?",
    "mhop_ans": "Lima",
    "loc": "Who leads Zed?",
    "loc_ans": "Cy",
}
QNA = {"case_index": 4, "question": "Acme is led by", "subject": "Acme", "answer": "Bo Li"}


def ripple(prompt: str, relation: str, original: str | None = None, **tests: Any) -> dict[str, Any]:
    edit: dict[str, Any] = {"prompt": prompt, "subject_id": "Q1", "relation": relation}
    if original is not None:
        edit["original_fact"] = {"prompt": original, "subject_id": "Q1", "relation": relation}
    return {"example_type": "popular", "edit": edit, **tests}


def parsed(item: dict[str, Any]) -> Record:
    return parse_record(item, 3, "facts.json")


def test_every_form_is_recognised() -> None:
    named: dict[str, Any] = {
        "short form": SHORT,
        "CounterFact": {"requested_rewrite": {}},
        "CounterFact, flat": FLAT,
        "EasyEdit": KNOWEDIT,
        "KnowEdit WikiBio": WIKIBIO,
        "MQuAKE": MQUAKE,
        "HalluEditBench": HALLUEDIT,
        "WikiBigEdit": WIKIBIGEDIT,
        "questions and answers": QNA,
        "RippleEdits": ripple("The mother of Ada is Bea.", "MOTHER"),
        "zsRE": {"src": "Who is Ada?", "subject": "Ada", "answers": ["B"], "alt": "C"},
    }
    assert set(named) == {form.name for form in request_formats()}
    for name, item in named.items():
        form = recognise(item)
        assert form is not None
        assert form.name == name


@pytest.mark.parametrize(
    "item",
    [FLAT, KNOWEDIT, EASYEDIT, QAEDIT, WIKIBIO, MQUAKE, HALLUEDIT, WIKIBIGEDIT, QNA],
    ids=["flat", "knowedit", "easyedit", "qaedit", "wikibio", "mquake", "hallu", "wikibig", "qna"],
)
def test_published_fields_are_all_known(item: Any, tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([item]))
    found = read_requests(path)
    assert (found.faults, found.warnings) == ((), ())


def test_the_short_form_with_the_subject_spelled_out() -> None:
    record = parsed({**SHORT, "prompt": "In Freedoniania, as in freedonia and Freedonia, it is"})
    assert record.request.prompt == "In Freedoniania, as in freedonia and {}, it is"
    record = parsed({**SHORT, "prompt": "the capital of FREEDONIA is"})
    assert (record.request.prompt, record.request.subject) == ("the capital of {} is", "FREEDONIA")
    record = parsed({**SHORT, "target_new": "Marxville ", "aliases": ["M."], "question": "Where?"})
    assert (record.request.target_new, record.aliases, record.request.question) == (
        "Marxville",
        ("M.",),
        "Where?",
    )


def test_counterfact_with_texts_for_objects() -> None:
    rewrite = {"prompt": "The capital of Freedonia is", "subject": "Freedonia", "target_new": "M"}
    record = parsed({"requested_rewrite": rewrite, "paraphrase_prompts": "Its capital is"})
    assert (record.request.prompt, record.request.target_new) == ("The capital of {} is", "M")
    assert record.paraphrase_prompts == ("Its capital is",)


def test_flat_counterfact() -> None:
    request = parsed(FLAT).request
    assert (request.prompt, request.relation_id) == ("The capital of {} is", "P36")
    assert (request.target_new, request.target_true) == ("Marxville", "Fredville")


def test_knowedit() -> None:
    record = parsed(KNOWEDIT)
    assert record.kind == "zsre"
    assert record.request.prompt == "Which city is the capital of {}?"
    assert (record.request.target_new, record.request.target_true) == ("Marxville", "Fredville")
    assert record.paraphrase_prompts == ("What is Freedonia's capital?",)
    assert record.portability == (
        ("The mayor of its capital is", ("Ann", "Anne", "A.")),
        ("The capital of the Free State is", ("Marxville",)),
    )
    assert record.locality == (("The anthem of Freedonia is", ("Hail",)),)
    assert record.neighborhood_prompts == ("The anthem of Freedonia is",)
    assert record.neighborhood_target == "Hail"


def test_easyedit() -> None:
    record = parsed(EASYEDIT)
    assert record.request.target_true == "Fredville"
    assert [question for question, _ in record.locality] == ["Q one?", "Q two?", "Q three?"]
    assert record.neighborhood_target == "one"


def test_qaedit() -> None:
    record = parsed(QAEDIT)
    assert (record.request.prompt, record.request.subject) == ("When was the {} released?", "Ada-7")
    assert record.locality == (("who wrote it", ("Bo",)), ("where", ("there",)))
    assert (record.neighborhood_prompts, record.neighborhood_target) == (("who wrote it",), "Bo")


def test_wikibio() -> None:
    record = parsed(WIKIBIO)
    assert record.request.prompt == "This is a passage about {}."
    assert (record.request.subject, record.request.target_new) == ("Ada Sample", "She wove.")


def test_mquake_gives_a_record_for_each_edit() -> None:
    with pytest.raises(RequestError, match="record 3: holds several edits"):
        parsed(MQUAKE)
    first, second, third = parse_records([MQUAKE, {**SHORT, "case_id": 9}], "mquake.json")
    assert [record.case_id for record in (first, second, third)] == [0, 1, 2]
    assert (first.request.target_new, first.request.question) == (
        "Libya",
        "Of which country is Vin Sample a citizen?",
    )
    assert first.portability == ()
    assert second.portability == tuple(
        (question, ("Oslo", "Kristiania")) for question in MQUAKE["questions"]
    )
    single = {**MQUAKE, "requested_rewrite": MQUAKE["requested_rewrite"][:1]}
    assert parsed(single).case_id == 9


def test_mquake_remastered_has_its_objects_in_separate_fields() -> None:
    edit, *_ = MQUAKE["requested_rewrite"]
    flat = {
        "target_new_str": "Libya",
        "target_new_id": "Q1016",
        "target_true_str": "Peru",
        "target_true_id": "Q419",
    }
    kept = ("prompt", "relation_id", "subject", "question")
    item = {
        **MQUAKE,
        "requested_rewrite": [{**{name: edit[name] for name in kept}, **flat}],
        "split": {"100": ["train_edited"]},
        "edit_triples": [],
        "new_triples_labeled": [],
    }
    assert parsed(item) == parsed({**MQUAKE, "requested_rewrite": [edit]})


def test_hallueditbench(tmp_path: Path) -> None:
    path = tmp_path / "brand.csv"
    names = list(HALLUEDIT)
    row = ",".join(f'"{HALLUEDIT[name]}"' for name in names)
    path.write_text(f"{','.join(names)}\n{row}\n")
    (record,) = load_records(path)
    assert record.request.prompt == "Who was {} founded by?"
    assert (record.request.target_new, record.request.relation_id) == ("Bo Li", "founded by")
    assert record.portability == (
        ("Was Acme founded by Bo Li?", ("Yes",)),
        ("Was Acme founded by Al Ra?", ("No",)),
        ("What did Bo Li found?", ("Acme",)),
        ("Where was Acme's founder born?", ("Lima",)),
    )
    assert record.neighborhood_prompts == ("What does Acme sell?",)


def test_wikibigedit_and_plain_questions() -> None:
    record = parsed(WIKIBIGEDIT)
    assert (record.request.prompt, record.request.target_new) == ("Who leads {}?", "Bo Li")
    assert record.paraphrase_prompts == ("Who is Acme's head?", "Yo, who runs Acme?")
    assert record.portability == (("Where was Acme's head born?", ("Lima",)),)
    assert record.neighborhood_target == "Cy"
    record = parsed(QNA)
    assert (record.case_id, record.request.prompt) == (4, "{} is led by")


@pytest.mark.parametrize(
    ("sentence", "relation", "prompt", "subject", "target"),
    [
        ("The country of Vin is Peru.", "COUNTRY", "The country of {} is", "Vin", "Peru"),
        (
            "The name of the mother of the Duke of York is Ada.",
            "MOTHER",
            "The name of the mother of {} is",
            "the Duke of York",
            "Ada",
        ),
        (
            "The name of the country of citizenship of Vin is Peru.",
            "COUNTRY_OF_CITIZENSHIP",
            "The name of the country of citizenship of {} is",
            "Vin",
            "Peru",
        ),
        (
            "The names of the siblings of Vin are Ada.",
            "SIBLING",
            "The names of the siblings of {} are",
            "Vin",
            "Ada",
        ),
        (
            "The name of the country which Lake of Woe is associated with is Peru.",
            "COUNTRY",
            "The name of the country which {} is associated with is",
            "Lake of Woe",
            "Peru",
        ),
        (
            "The name of the sports team which Vin is a member of is Reds.",
            "MEMBER_OF_SPORTS_TEAM",
            "The name of the sports team which {} is a member of is",
            "Vin",
            "Reds",
        ),
        (
            "The number of children Vin has is 3.",
            "NUMBER_OF_CHILDREN",
            "The number of children {} has is",
            "Vin",
            "3",
        ),
        ("Part Two follows Part One.", "FOLLOWS", "{} follows", "Part Two", "Part One"),
        ("Part is followed by End.", "FOLLOWED_BY", "{} is followed by", "Part", "End"),
        (
            "The name of the award Vin won is Cup.",
            "AWARD_RECEIVED",
            "The name of the award {} won is",
            "Vin",
            "Cup",
        ),
        (
            "The name of the currency in Peru is Sol.",
            "CURRENCY",
            "The name of the currency in {} is",
            "Peru",
            "Sol",
        ),
    ],
)
def test_ripple_edits(sentence: str, relation: str, prompt: str, subject: str, target: str) -> None:
    request = parsed(ripple(sentence, relation)).request
    assert (request.prompt, request.subject) == (prompt, subject)
    assert (request.target_new, request.relation_id) == (target, relation)


def test_ripple_edits_with_the_fact_before_and_tests() -> None:
    answers = [{"value": "Cy", "aliases": ["C."]}, {"value": "Di", "aliases": []}]
    query = {"prompt": "The aunt of Vin is", "answers": answers, "query_type": "regular"}
    tests = [{"test_queries": [query], "test_type": "x", "test_condition": "OR"}]
    item = ripple(
        "The director of Vin is Life is Good.",
        "DIRECTOR",
        "The director of Vin is Life.",
        Compositionality_I=tests,
        Forgetfulness=tests,
        Relation_Specificity=[],
    )
    record = parsed(item)
    assert (record.request.target_new, record.request.target_true) == ("Life is Good", "Life")
    assert record.portability == (("The aunt of Vin is", ("Cy", "C.", "Di")),)
    assert record.neighborhood_target == "Cy"
    with pytest.raises(RequestError, match="the prompt does not show its subject"):
        parsed(ripple("Nobody is here.", "X"))
    with pytest.raises(RequestError, match="is not a sentence"):
        parsed(ripple("Nobody here.", "X"))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({k: v for k, v in KNOWEDIT.items() if k != "subject"}, "name the subject as the prompt"),
        ({**KNOWEDIT, "subject": "Elsewhere"}, "'prompt' does not contain the subject"),
        (
            {**KNOWEDIT, "portability": 3},
            "portability: expected questions with answers, found a number",
        ),
        ({**KNOWEDIT, "locality": [{"loc": 3, "loc_ans": "a"}]}, "locality: 'loc' must be a text"),
        ({**KNOWEDIT, "target": "Other"}, "gives both 'target_new' and 'target'"),
        ({**MQUAKE, "requested_rewrite": [3]}, "requested_rewrite 0: expected a JSON object"),
        (
            ripple("The aunt of A is B.", "AUNT", Forgetfulness=3),
            "'Forgetfulness' must be a list of objects",
        ),
        ({"edit": {"relation": {}}, "true_objects": []}, "none of the fields"),
    ],
)
def test_names_the_faults_of_each_form(item: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(item)
    assert message in str(caught.value)
    assert str(caught.value).startswith("facts.json, record 3")
