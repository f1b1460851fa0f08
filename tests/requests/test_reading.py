"""What a file is, by its content: lists, lines, tables, standard input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from collabedit.requests import load_records, read_requests
from collabedit.requests.reading import read_objects

A = {"prompt": "The capital of {} is", "subject": "A", "target": "X"}
B = {**A, "subject": "B", "paraphrase_prompts": ["B's capital is", "B's seat is"]}
LINES = f"{json.dumps(A)}\n\n{json.dumps(B)}\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("facts.json", json.dumps([A, B])),
        ("facts.json", json.dumps([A, B], indent=2)),
        ("facts.json", LINES),
        ("facts.jsonl", LINES),
        ("facts.JSONL", LINES),
        ("facts.ndjson", LINES.replace("\n", "\r\n")),
        ("facts", LINES),
        ("facts.txt", f"{json.dumps([A])}\n{json.dumps([B])}"),
        ("facts.jsonl", json.dumps([A, B], indent=1)),
        (
            "facts.csv",
            "prompt,subject,target,paraphrase_prompts\n"
            "The capital of {} is,A,X,\n"
            'The capital of {} is,B,X,"[""B\'s capital is"", ""B\'s seat is""]"\n',
        ),
        (
            "facts.CSV",
            "\ufeffprompt;subject;target;paraphrase_prompts\r\n"
            "The capital of {} is;A;X;\r\n;;;\r\n"
            'The capital of {} is;B;X;"[""B\'s capital is"", ""B\'s seat is""]"\r\n',
        ),
        (
            "facts.tsv",
            "prompt\tsubject\ttarget\tparaphrase_prompts\nThe capital of {} is\tA\tX\n"
            'The capital of {} is\tB\tX\t["B\'s capital is", "B\'s seat is"]',
        ),
    ],
)
def test_the_same_records_in_every_container(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps([A, B]))
    assert load_records(path) == load_records(str(path)) == load_records(reference)


def test_one_record_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "fact.json"
    for content in (json.dumps(B), json.dumps(B, indent=2)):
        path.write_text(content)
        assert [record.request.subject for record in load_records(path)] == ["B"]


@pytest.mark.parametrize("content", [LINES, "subject,prompt,target\nA,{} is,X\nB,{} is,X\n"])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    found = read_requests("-")
    assert found.source == "standard input"
    assert [record.request.subject for record in found.records] == ["A", "B"]


def test_locations_count_lines_of_the_file(tmp_path: Path) -> None:
    table = tmp_path / "facts.csv"
    table.write_text('case_id,prompt,subject,target\n7,"{}\nis",A,X\n\n8,{} is,B,Y\n')
    assert [item.where for item in read_objects(table)] == ["line 2, record 0", "line 5, record 1"]
    assert [record.case_id for record in load_records(table)] == [7, 8]
    lines = tmp_path / "facts.jsonl"
    lines.write_text(f"\n{json.dumps([A, B])}\n{json.dumps(A)}")
    locations = [item.where for item in read_objects(lines)]
    assert locations == ["line 2, record 0", "line 2, record 1", "line 3, record 2"]
