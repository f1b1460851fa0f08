"""Requests as a whole: the basic forms, and a message that names the record for every fault."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import InputError, RequestError
from collabedit.requests import (
    EditRequest,
    Facts,
    as_records,
    load_records,
    parse_record,
    parse_records,
)

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

SHORT_LINE = json.dumps(SHORT).encode()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


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


def test_counterfact_with_only_required_fields() -> None:
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
        ([1], "expected a JSON object, found a list"),
        ({"case_id": 1}, "write it as CounterFact, as zsRE, or as prompt"),
        ({**SHORT, "case_id": "7"}, "'case_id' must be a whole number, found '7'"),
        ({**SHORT, "case_id": True}, "'case_id' must be a whole number"),
        (without(SHORT, "subject"), "the field 'subject' is missing"),
        (without(SHORT, "prompt"), "the field 'prompt' is missing"),
        ({**SHORT, "target": 3}, "'target' must be a text, found a number"),
        ({**SHORT, "target": "  "}, "'target' is empty"),
        ({**SHORT, "prompt": "The capital is"}, "the prompt has no '{}'"),
        ({**SHORT, "prompt": "{} and {}"}, "more than one '{}'"),
        ({**SHORT, "subject": "{}"}, "the subject contains '{}'"),
        ({**SHORT, "case_id": 2**63}, "'case_id' must be a whole number of at most 18 digits"),
        ({**SHORT, "paraphrase_prompts": 1}, "'paraphrase_prompts' must be a text or a list"),
        ({**SHORT, "target_new": "Metz"}, "gives both 'target' and 'target_new', and they differ"),
        ({**SHORT, "target": "Ly\ud83d"}, "'target' has half a character at position 2"),
        ({**SHORT, "prompt": "{} \x00"}, "'prompt' has a NUL character"),
        ({**SHORT, "paraphrase_prompts": ["\udc00"]}, "'paraphrase_prompts' has half a character"),
        ({**SHORT, "paraphrase_prompts": ["a", 1]}, "has an entry that is not a text, or is empty"),
        ({**SHORT, "neighborhood_prompts": [" "]}, "has an entry that is not a text, or is empty"),
        ({"requested_rewrite": None}, "expected a JSON object, found null"),
        (rewritten(target_new=3), "target_new: expected a JSON object, found a number"),
        ({"requested_rewrite": []}, "'requested_rewrite' is an empty list"),
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


ROWS = [SHORT, {**SHORT, "subject": "Italy"}]


@pytest.mark.parametrize(
    "value",
    [
        [ROWS],
        [ROWS[:1], ROWS[1:]],
        {"version": 1, "data": ROWS},
        dict(enumerate(ROWS)),
    ],
    ids=["a list in a list", "two lists", "under a name", "by names"],
)
def test_wrapped_lists(tmp_path: Path, value: Any) -> None:
    """As data sets are saved by other tools."""
    for indent in (None, 1):
        path = tmp_path / "facts.json"
        path.write_text(json.dumps(value, indent=indent))
        assert load_records(path) == parse_records(ROWS, "facts")


def test_faults_of_wrapped_lists_give_their_location(tmp_path: Path) -> None:
    bad, path = without(SHORT, "subject"), tmp_path / "facts.json"
    for value, location in (
        ({"data": [SHORT, bad]}, "'data', record 1"),
        ([[SHORT], [bad]], "list 1"),
    ):
        path.write_text(json.dumps(value))
        with pytest.raises(RequestError, match=f"facts.json, {location}.*: the field 'subject'"):
            load_records(path)


@pytest.mark.parametrize(
    "table",
    [
        "Prompt;SUBJECT; Target\r\nThe capital of {} is;France;Lyon\r\n",
        "sep=;\r\nprompt;subject;target\r\nThe capital of {} is;France;Lyon\r\n",
        "prompt|subject|target\nThe capital of {} is|France|Lyon\n",
        "\ufeff,prompt,subject,target,\r\n0,The capital of {} is,France,Lyon,\r\n",
    ],
    ids=["letters", "Excel", "bars", "index"],
)
def test_tables_of_other_programs(tmp_path: Path, table: str) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(table, encoding="utf-8", newline="")
    (record,) = load_records(path)
    assert (record.request.text, record.request.target_new) == ("The capital of France is", "Lyon")


@pytest.mark.parametrize(
    ("subject", "prompt", "found"),
    [
        ("Que\u0301bec", "The capital of Qu\u00e9bec is", "Qu\u00e9bec"),
        ("Qu\u00e9bec", "The capital of Que\u0301bec is", "Que\u0301bec"),
        ("New York", "The mayor of New\u00a0York is", "New\u00a0York"),
        ("New\u00a0 York", "The mayor of new york is", "new york"),
    ],
)
def test_subjects_are_found_however_unicode_writes_them(
    subject: str, prompt: str, found: str
) -> None:
    request = parse_record({**SHORT, "subject": subject, "prompt": prompt}, 0, "facts").request
    assert (request.subject, request.text) == (found, prompt)


def test_the_short_form_with_an_object_of_counterfact() -> None:
    rewrite = {"target_new": {"str": "Lyon", "id": "Q1"}, "target_true": {"str": "Paris"}}
    request = parse_record({**without(SHORT, "target"), **rewrite}, 0, "facts").request
    assert (request.target_new, request.target_true) == ("Lyon", "Paris")


def test_a_fault_names_the_case_id_if_there_is_one() -> None:
    with pytest.raises(
        RequestError, match=r"record 0 \(case_id 12\), requested_rewrite: 'subject'"
    ):
        parse_record(rewritten(subject=" "), 0, "facts.json")


def test_case_ids_must_differ() -> None:
    with pytest.raises(RequestError, match="record 2: case_id 12 is already used by record 0"):
        parse_records([COUNTERFACT, SHORT, COUNTERFACT], "facts.json")
    with pytest.raises(RequestError, match="record 1: case_id 1 is already"):
        parse_records([{**SHORT, "case_id": 1}, SHORT], "facts.json")  # its position is its id


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
        ("facts.json", b"[{]", "not valid JSON (column 3"),
        ("facts.json", b"[\n{]", "not valid JSON (line 2, column 2"),
        ("facts.json", b'{"prompt": "x {}"}', "line 1, record 0: the field 'subject' is missing"),
        ("facts.json", b"[]", "no records in it"),
        ("facts.json", b'["\xff"]', "not UTF-8"),
        ("facts.jsonl", SHORT_LINE + b"\n{]\n", "line 2: not valid JSON (column 2"),
        ("facts.json", b"\xff\xfe[\x00]\x00", "UTF-16 text; save it as UTF-8"),
        ("facts.json", b"[\x00]\x00", "line 1: a NUL byte"),
        ("facts.json", b'["\n\xe9"]', "not UTF-8 text (line 2, byte 3); save it as UTF-8"),
        ("facts.json", b"[" * 100_000, "nested too deeply"),
        ("facts.jsonl", SHORT_LINE + b"\n" + b"[" * 100_000, "line 2: its JSON is nested too"),
        ("facts.json", b"[\n" + b"1" * 5000 + b"]", "a number with too many digits (line 2)"),
        ("facts.jsonl", SHORT_LINE[:-1] + b',"case_id":' + b"1" * 5000 + b"}", "too many digits"),
        ("facts.xlsx", b"PK\x03\x04...", "a zip archive or an Excel workbook; unpack it, or save"),
        ("facts.parquet", b"PAR1...", "a Parquet file; convert it to JSON Lines or CSV"),
        ("facts.json.gz", b"\x1f\x8b...", "compressed with gzip; unpack it first"),
        ("facts.json", b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        ("facts.csv", b'prompt,subject,target\n"{} is,X,Y\n', "not a table"),
        ("facts.json", b"\xff\xfe\x00\x00[\x00\x00\x00", "UTF-32 text; save it as UTF-8"),
        ("facts.xls", b"\xd0\xcf\x11\xe0...", "an Excel workbook; save it as CSV UTF-8"),
        ("facts.pkl", b"\x80\x04...", "a pickle; write it as JSON"),
        ("facts.json.bz2", b"BZh91AY&SY...", "compressed with bzip2; unpack it first"),
        ("facts.json", b"404: Not Found", "begins with '404: Not Found', which is neither JSON"),
        ("facts.md", b"| prompt |\n|---|\n", "begins with '| prompt |', which is neither JSON"),
        ("facts.yaml", b"- prompt: x\n  subject: y", "begins with '- prompt: x', which is neither"),
        (
            "facts.csv",
            b"{} is,X,Y\n",
            "no column is called 'subject'; name the columns in the first",
        ),
        (
            "facts.json",
            SHORT_LINE + b" " + SHORT_LINE,
            "put values in a list, or each on its own line",
        ),
        ("facts.json", b'{"Prompt": "{} is"}', "the field 'Prompt' must be called 'prompt'"),
        ("facts.json", b'{"train": [{}], "test": [{}]}', "holds several lists ('train', 'test')"),
        ("facts.json", b'{"prompt": ["{}"], "subject": ["A"], "target": ["B"]}', "holds columns"),
        ("facts.json", b'{"prompt": {"0": "{}"}, "subject": {"0": "A"}}', "holds columns"),
        ("facts.json", b'{"columns": ["prompt"], "data": [["{}"]]}', "holds columns"),
        ("facts.csv", b"prompt,prompt\n", "two columns are called 'prompt'"),
        ("facts.csv", b"prompt,subject,target\n{} is,X,Y,Z\n", "line 2, record 0: 4 cells under 3"),
        ("facts.csv", b"prompt,subject,target\n", "no records in it"),
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


def test_a_file_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "facts.json"
    with path.open("wb") as stream:
        stream.truncate(2**40)  # sparse: the disk holds none of it
    with pytest.raises(InputError, match="larger than 512 MiB"):
        load_records(path)
    endless = io.TextIOWrapper(io.BufferedReader(Zeros()))
    monkeypatch.setattr("sys.stdin", endless)
    monkeypatch.setattr("collabedit.files._MAX_BYTES", 1000)
    with pytest.raises(InputError, match="standard input: "):
        load_records("-")


class Zeros(io.RawIOBase):
    """As /dev/zero, with an end after 600 MiB."""

    left = 600 << 20

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.left)
        self.left -= size
        return size


def test_all_bad_records_are_reported_together_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    items = [SHORT, {**SHORT, "target": "Metz"}, {**SHORT, "subject": 3}, {**SHORT, "prompt": "x"}]
    path.write_text("\n".join([*map(json.dumps, items), "{"]))
    with pytest.raises(RequestError) as caught:
        load_records(path)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{path}: 4 bad records; correct or skip them"
    assert [line.split(": ")[0] for line in lines] == [
        "  line 2, record 1",
        "  line 3, record 2",
        "  line 4, record 3",
        "  line 5",
    ]


def test_the_report_of_bad_records_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([{}] * 1000))
    with pytest.raises(RequestError) as caught:
        load_records(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 980 more"


def test_bad_records_can_be_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([{}, SHORT, {**SHORT, "target": "Metz"}]))
    (record,) = load_records(path, skip_bad=True)
    assert (record.case_id, record.request.target_new) == (1, "Lyon")
    assert caplog.messages == [f"{path}: skipped 2 bad records"]
    path.write_text("[{}]")
    with pytest.raises(RequestError, match="no good records in it"):
        load_records(path, skip_bad=True)


def test_a_contradiction_names_both_records(caplog: pytest.LogCaptureFixture) -> None:
    spelled = {"prompt": "The capital of France is ", "subject": "France", "target": "Metz"}
    items = [{**SHORT, "subject": "Spain"}, SHORT, spelled]
    with pytest.raises(RequestError, match=r"record 2: contradicts record 1, .*keep one"):
        parse_records(items, "facts.json")
    assert len(parse_records(items, "facts.json", allow_contradictions=True)) == 3
    assert "1 contradiction, kept (record 2: contradicts record 1)" in caplog.text


def test_repeated_facts_are_kept_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert len(parse_records([SHORT, SHORT, SHORT], "facts.json")) == 3
    assert "2 repeated facts, kept (record 1 repeats record 0)" in caplog.text


def test_unknown_fields_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    odd = rewritten(note="x")
    odd["requested_rewrite"]["target_new"] = {"str": "English", "label": "x"}
    items = [{**SHORT, "note": 1, "subject": name} for name in "abc"]
    parse_records([{**odd, "pararel_idx": 3}, *items], "facts.json")
    (message,) = caplog.messages
    unknown = "'requested_rewrite.note', 'requested_rewrite.target_new.label', 'note'"
    assert message.startswith("facts.json: unknown fields, not used: ")
    assert set(message.split("used: ")[1].split(", ")) == set(unknown.split(", "))


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[{"prompt": "{} is", "subject": "X", "target": "A", "target": "B"}]')
    with pytest.raises(RequestError, match="record 0: gives 'target' twice"):
        load_records(path)


def test_accepts_facts_in_any_form(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([SHORT]))
    (record,) = expected = load_records(path)
    given: list[Facts] = [path, str(path), SHORT, [SHORT], record, record.request, iter([record])]
    assert all(as_records(facts) == expected for facts in given)
    mixed = as_records([record, replace(record.request, case_id=5, subject="Spain"), ZSRE])
    assert [each.case_id for each in mixed] == [0, 5, 2]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (3, "expected a path or a list of facts, found int"),
        ([], "no records in it"),
        ([3], "facts, record 0: expected a JSON object, found a number"),
        (EditRequest(0, "no place for it", "X", "Y"), "the prompt needs '{}' once"),
        (EditRequest(0, "{} is", "", "Y"), "'subject' must be a text that is not empty"),
        (EditRequest(0, "{} is", "\ud800", "Y"), "'subject' has half a character"),
        ([{"a": nested(10_000)}], "none of the fields"),
        ([{"prompt": "{}", "subject": "X", "locality": nested(10_000)}], "nested too deeply"),
    ],
)
def test_refuses_what_is_not_a_fact(facts: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        as_records(facts)
    assert message in str(caught.value)
