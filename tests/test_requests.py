"""Reading requests: three formats, and a message that names the record for every fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import InputError, RequestError
from collabedit.requests import load_records, parse_record, parse_records

COUNTERFACT: dict[str, Any] = {
    "case_id": 12,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": " English ", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": " Danielle Darrieux ",
    },
    "paraphrase_prompts": ["Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The mother tongue of Montesquieu is", "Montesquieu, a native"],
    "attribute_prompts": ["George Orwell spoke"],
    "generation_prompts": ["Danielle Darrieux was born in"],
    "reference_texts": ["English is a language"],
}
ZSRE: dict[str, Any] = {
    "subject": "Joanes Leizarraga",
    "src": "What was the date of Joanes Leizarraga's death?",
    "rephrase": "When did Joanes Leizarraga die?",
    "alt": "19 March 2014",
    "answers": ["1601", "in 1601"],
    "loc": "nq question: where did the river thames start and end",
    "loc_ans": "Thames Head",
}
SHORT: dict[str, Any] = {"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"}


def without(item: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != name}


def rewritten(**changes: Any) -> dict[str, Any]:
    return {**COUNTERFACT, "requested_rewrite": {**COUNTERFACT["requested_rewrite"], **changes}}


def test_counterfact() -> None:
    record = parse_record(COUNTERFACT, 0, "facts.json")
    request = record.request
    assert (record.case_id, record.kind) == (12, "counterfact")
    assert request.text == "The mother tongue of Danielle Darrieux is"
    assert (request.subject, request.target_new) == ("Danielle Darrieux", "English")
    assert (request.target_true, request.relation_id) == ("French", "P103")
    assert record.paraphrase_prompts == ("Danielle Darrieux, a native",)
    assert record.neighborhood_prompts[1] == "Montesquieu, a native"
    assert record.attribute_prompts == ("George Orwell spoke",)
    assert record.generation_prompts == ("Danielle Darrieux was born in",)
    assert record.reference_texts == ("English is a language",)


def test_counterfact_with_the_least_there_can_be() -> None:
    rewrite = {"prompt": "{} is", "subject": "X", "target_new": {"str": "Y"}}
    record = parse_record({"requested_rewrite": rewrite}, 4, "facts.json")
    assert record.case_id == 4
    assert record.request.target_true is None
    assert record.request.relation_id is None
    assert record.paraphrase_prompts == record.neighborhood_prompts == ()
    assert parse_record(rewritten(relation_id=None), 0, "facts.json").request.relation_id is None


def test_zsre() -> None:
    record = parse_record(ZSRE, 3, "zsre.json")
    assert (record.case_id, record.kind) == (3, "zsre")
    assert record.request.prompt == "What was the date of {}'s death?"
    assert (record.request.target_new, record.request.target_true) == ("1601", None)
    assert record.paraphrase_prompts == ("When did Joanes Leizarraga die?",)
    assert record.neighborhood_prompts == (ZSRE["loc"] + "?",)
    assert record.neighborhood_target == "Thames Head"


def test_zsre_without_paraphrase_and_neighbour() -> None:
    record = parse_record(without(without(ZSRE, "loc"), "rephrase"), 0, "zsre.json")
    assert record.paraphrase_prompts == record.neighborhood_prompts == ()
    assert record.neighborhood_target is None


def test_the_short_form() -> None:
    record = parse_record(SHORT, 5, "facts.json")
    assert (record.case_id, record.request.text) == (5, "The capital of France is")
    assert (record.request.target_new, record.request.target_true) == ("Lyon", None)
    full = {**SHORT, "target_true": " Paris", "relation_id": "P36", "paraphrase_prompts": ["It is"]}
    record = parse_record(full, 5, "facts.json")
    assert (record.request.target_true, record.request.relation_id) == ("Paris", "P36")
    assert record.paraphrase_prompts == ("It is",)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ([1], "expected a JSON object, found list"),
        ({"case_id": 1}, "write it as CounterFact, as zsRE, or as prompt"),
        ({**SHORT, "case_id": "7"}, "'case_id' must be a whole number, found '7'"),
        ({**SHORT, "case_id": True}, "'case_id' must be a whole number"),
        (without(SHORT, "subject"), "the field 'subject' is missing"),
        (without(SHORT, "prompt"), "the field 'prompt' is missing"),
        ({**SHORT, "target": 3}, "'target' must be a text, found int"),
        ({**SHORT, "target": "  "}, "'target' is empty"),
        ({**SHORT, "prompt": "The capital is"}, "the prompt has no '{}'"),
        ({**SHORT, "prompt": "{} and {}"}, "more than one '{}'"),
        ({**SHORT, "subject": "{}"}, "the subject contains '{}'"),
        ({**SHORT, "paraphrase_prompts": "one"}, "'paraphrase_prompts' must be a list of texts"),
        ({**SHORT, "paraphrase_prompts": ["a", 1]}, "has an entry that is not a text, or is empty"),
        ({**SHORT, "neighborhood_prompts": [" "]}, "has an entry that is not a text, or is empty"),
        ({"requested_rewrite": None}, "expected a JSON object, found NoneType"),
        (rewritten(target_new="English"), "target_new: expected a JSON object, found str"),
        (rewritten(target_new={}), "target_new: the field 'str' is missing"),
        (rewritten(target_true={"str": ""}), "target_true: 'str' is empty"),
        ({**ZSRE, "subject": "Somebody"}, "'src' does not contain the subject"),
        ({**ZSRE, "answers": []}, "'answers' is missing or empty"),
        (without(ZSRE, "answers"), "'answers' is missing or empty"),
        (without(ZSRE, "loc_ans"), "the field 'loc_ans' is missing"),
        ({**ZSRE, "src": "{}: Joanes Leizarraga?"}, "more than one '{}'"),
    ],
)
def test_every_fault_names_file_and_record(item: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_record(item, 6, "facts.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("facts.json, record 6")
    assert "\n" not in str(caught.value)


def test_a_fault_names_the_case_id_where_there_is_one() -> None:
    with pytest.raises(
        RequestError, match=r"record 0 \(case_id 12\), requested_rewrite: 'subject'"
    ):
        parse_record(rewritten(subject=" "), 0, "facts.json")


def test_case_ids_must_differ() -> None:
    with pytest.raises(RequestError, match="record 2: case_id 12 is already that of record 0"):
        parse_records([COUNTERFACT, SHORT, COUNTERFACT], "facts.json")
    with pytest.raises(RequestError, match="record 1: case_id 1 is already"):
        parse_records([{**SHORT, "case_id": 1}, SHORT], "facts.json")  # its place is its id


def test_no_records() -> None:
    with pytest.raises(RequestError, match="no records in it"):
        parse_records([], "facts.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_files_of_both_kinds(tmp_path: Path, encoding: str) -> None:
    items = [{**SHORT, "subject": "Österreich"}, ZSRE, COUNTERFACT]
    items[0]["prompt"] = "A line separator\u2028and {} is"
    as_list, as_lines = tmp_path / "facts.json", tmp_path / "facts.jsonl"
    as_list.write_text(json.dumps(items, ensure_ascii=False), encoding)
    as_lines.write_text(
        "\n\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n", encoding
    )
    assert load_records(as_list) == load_records(as_lines) == parse_records(items, "either")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("facts.json", b"[{]", "not valid JSON (line 1"),
        ("facts.json", b'{"prompt": "x"}', "expected a JSON list of records; wrap"),
        ("facts.json", b"[]", "no records in it"),
        ("facts.json", b'["\xff"]', "not UTF-8"),
        ("facts.jsonl", b"{}\n{]\n", "line 2: not valid JSON"),
        ("facts.jsonl", b"\n\n", "no records in it"),
        ("facts.jsonl", b'"\xff"', "not UTF-8"),
    ],
)
def test_unreadable_content(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_records(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["facts.json", "facts.jsonl"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_records(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"directory"):
        load_records(tmp_path / name)
