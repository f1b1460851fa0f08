"""Round-edit records: both published forms, CounterFact records instead of them, and damage."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from collabedit.datasets import RoundEdit, load_dataset, load_round_edits, load_wordings
from collabedit.errors import DatasetError, InputError, RequestError


def labelled(label: str) -> dict[str, str]:
    return {"id": f"Q-{label}", "label": label}


def round_edit(**changes: Any) -> dict[str, Any]:
    """A record as CollabEdit publishes it; ``None`` removes a part of its edit."""
    edit: dict[str, Any] = {
        "relation": {"id": "P366", "prompt": "{} has use(s), such as", "label": "has use"},
        "subject": labelled("fpart"),
        "object": labelled("data migration"),
        "new_object": "franking",
        "conflict_object": labelled("fracking"),
    }
    edit = {name: value for name, value in {**edit, **changes}.items() if value is not None}
    true = [labelled("data synchronization"), labelled("data migration"), labelled("archiving")]
    return {"type": "1-3@P366", "edit": edit, "true_objects": true}


def write(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


EXPECTED = RoundEdit(
    case_id=0,
    prompt="{} has use(s), such as",
    subject="fpart",
    relation_id="P366",
    edited="franking",
    preferred="data migration",
    conflict="fracking",
    further=("data synchronization", "archiving"),
)


@pytest.mark.parametrize("wrap", [str, labelled], ids=["text", "label"])
def test_objects_are_read_in_both_forms(tmp_path: Path, wrap: Any) -> None:
    record = round_edit(
        subject=wrap("fpart"),
        object=wrap("data migration"),
        new_object=wrap(" franking"),
        conflict_object=wrap("fracking "),
    )
    record["true_objects"] = [
        wrap(label) for label in ("data synchronization", "data migration", "archiving")
    ]
    assert load_round_edits(write(tmp_path / "edits.json", [record])) == [EXPECTED]


def test_its_requests_share_all_but_the_object_and_the_prompt() -> None:
    first, reworded = EXPECTED.request("franking"), EXPECTED.request("x", "One uses {} for")
    assert (first.case_id, first.prompt, first.subject) == (0, EXPECTED.prompt, "fpart")
    assert (first.target_new, first.target_true, first.relation_id) == ("franking", None, "P366")
    assert (reworded.prompt, reworded.target_new, reworded.subject) == (
        "One uses {} for",
        "x",
        "fpart",
    )


def test_case_ids_are_given_or_positions(tmp_path: Path) -> None:
    values = [round_edit(), {**round_edit(), "case_id": 70}, round_edit()]
    made = load_round_edits(write(tmp_path / "edits.json", values))
    assert [item.case_id for item in made] == [0, 70, 2]


def test_a_missing_conflict_is_another_object_of_the_relation(tmp_path: Path) -> None:
    def fact(new: str, true: str, relation: str, conflict: str | None) -> dict[str, Any]:
        record = round_edit(
            relation={"id": relation, "prompt": "{} is"},
            subject=f"what is {new}",
            new_object=new,
            object=labelled(true),
            conflict_object=conflict,
        )
        return {**record, "true_objects": [true]}

    values = [
        fact("a", "b", "P1", None),
        fact("c", "b", "P1", None),
        fact("d", "e", "P2", "given"),
        fact("f", "g", "P2", None),
    ]
    path = write(tmp_path / "edits.json", values)
    conflicts = [item.conflict for item in load_round_edits(path)]
    assert conflicts[0] == "c"
    assert conflicts[1] == "a"
    assert conflicts[2] == "given"
    assert conflicts[3] in {"d", "e"}
    seeds = {load_round_edits(path, seed=seed)[3].conflict for seed in range(12)}
    assert seeds == {"d", "e"}
    assert load_round_edits(path, seed=3) == load_round_edits(path, seed=3)


def test_another_true_object_is_not_a_conflict(tmp_path: Path) -> None:
    """Only for its own subject: it may conflict with another subject's answer."""
    own = round_edit(conflict_object=None)
    other = round_edit(conflict_object=None, subject="tar", object="archiving", new_object="x")
    other["true_objects"] = ["archiving", "bundling"]
    path = write(tmp_path / "edits.json", [own, other])
    conflicts = [
        tuple(item.conflict for item in load_round_edits(path, seed=seed)) for seed in range(40)
    ]
    assert {first for first, _ in conflicts} == {"x", "bundling"}
    assert {second for _, second in conflicts} == {
        *("franking", "data migration", "data synchronization")
    }


# CounterFact records instead of them


def test_counterfact_records_stand_in(tmp_path: Path) -> None:
    records = load_dataset("worldfacts")
    made = load_round_edits("worldfacts")
    assert len(made) == len(records)
    for item, record in zip(made, records, strict=True):
        request = record.request
        assert (item.case_id, item.prompt, item.subject) == (
            request.case_id,
            request.prompt,
            request.subject,
        )
        assert (item.edited, item.preferred) == (request.target_new, request.target_true)
        assert item.conflict not in {item.edited, item.preferred}
        assert item.relation_id == request.relation_id
        filled = [text.replace("{}", request.subject) for text in item.wordings]
        own = [t for t in record.paraphrase_prompts if t.count(request.subject) == 1]
        assert filled == own
    assert any(item.wordings for item in made)


def short_record(**changes: Any) -> dict[str, Any]:
    record = {
        "prompt": "The capital of {} is",
        "subject": "France",
        "target": "Rome",
        "target_true": "Paris",
        "relation_id": "P36",
        "paraphrase_prompts": [
            "France is governed from",  # a wording
            "Its seat of government is",  # does not name the subject
            "France, dear France, is governed from",  # names it twice
        ],
    }
    return {name: value for name, value in {**record, **changes}.items() if value is not None}


def test_paraphrases_that_name_the_subject_once_are_wordings(tmp_path: Path) -> None:
    other = short_record(subject="Norway", target="Bern", target_true="Oslo")
    for name in ("records.json", "records.jsonl"):
        path = tmp_path / name
        if path.suffix == ".json":
            write(path, [short_record(), other])
        else:
            path.write_text("\n".join(json.dumps(r) for r in (short_record(), other)))
        france, norway = load_round_edits(str(path))
        assert france.wordings == ("{} is governed from",)
        assert norway.wordings == ()
        assert france.conflict in {"Bern", "Oslo"}


def test_a_true_object_is_needed(tmp_path: Path) -> None:
    values = [short_record(), short_record(subject="Norway", target="Bern", target_true=None)]
    with pytest.raises(DatasetError, match="case 1 names no true object"):
        load_round_edits(write(tmp_path / "records.json", values))


# Wordings from a file


def test_wordings_of_the_relation_come_after_the_records_own(tmp_path: Path) -> None:
    path = tmp_path / "wordings.json"
    write(path, {"P366": ["{} serves for", "One uses {} for"], "P36": ["{}'s capital is"]})
    wordings = load_wordings(path)
    (item,) = load_round_edits(write(tmp_path / "edits.json", [round_edit()]), wordings)
    assert item.wordings == ("{} serves for", "One uses {} for")
    values = [short_record(), short_record(subject="Norway", target="Bern", target_true="Oslo")]
    france, _ = load_round_edits(write(tmp_path / "records.json", values), wordings)
    assert france.wordings == ("{} is governed from", "{}'s capital is")
    unknown = round_edit(relation={"id": "P1", "prompt": "{} is"})
    (item,) = load_round_edits(write(tmp_path / "edits.json", [unknown]), wordings)
    assert item.wordings == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([["{} is"]], "expected a JSON object of lists"),
        ({"P36": "{} is"}, "'P36': expected a list of prompts"),
        ({"P36": ["{} is", "the capital is"]}, "'P36': expected a list of prompts"),
        ({"P36": ["{} and {} are"]}, "'P36': expected a list of prompts"),
        ({"P36": [7]}, "'P36': expected a list of prompts"),
    ],
)
def test_malformed_wordings_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "wordings.json"
    write(path, value)
    with pytest.raises(RequestError, match=message) as caught:
        load_wordings(path)
    assert str(path) in str(caught.value)


def test_wordings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wordings file .*nowhere\.json"):
        load_wordings(tmp_path / "nowhere.json")


# Damage


def damaged(*path: str, value: Any = None) -> dict[str, Any]:
    """A record without one of its parts, or with something else instead of it."""
    record = deepcopy(round_edit())
    part = record
    for name in path[:-1]:
        part = part[name]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return record


@pytest.mark.parametrize(
    "record",
    [
        "no record",
        7,
        {"true_objects": []},
        damaged("edit", "subject"),
        damaged("edit", "object"),
        damaged("edit", "new_object"),
        damaged("edit", "relation"),
        damaged("edit", "relation", "prompt"),
        damaged("edit", "relation", "id"),
        damaged("true_objects"),
        damaged("edit", "subject", value=7),
        damaged("edit", "subject", value={"id": "Q1"}),
        damaged("edit", "object", value={"label": 7}),
        damaged("edit", "relation", "prompt", value=7),
        damaged("edit", "relation", "prompt", value=["{}"]),
        damaged("edit", "relation", "prompt", value="It has use(s), such as"),
        damaged("edit", "relation", "prompt", value="{} and {} have use(s), such as"),
        damaged("edit", "subject", value=" "),
        damaged("edit", "subject", value="\ud83d"),
        damaged("edit", "relation", "id", value=["P1"]),
        damaged("edit", "object", value=" "),
        damaged("edit", "new_object", value=" "),
        damaged("edit", "conflict_object", value=7),
        damaged("true_objects", value="data migration"),
        damaged("true_objects", value=[{"id": "Q1"}]),
        damaged("true_objects", value=[" "]),
        {**round_edit(), "case_id": "7"},
        {**round_edit(), "case_id": 0},
    ],
)
def test_malformed_records_are_named_by_file_and_position(tmp_path: Path, record: Any) -> None:
    path = write(tmp_path / "edits.json", [round_edit(), record])
    with pytest.raises(RequestError) as caught:
        load_round_edits(path)
    assert str(caught.value).startswith(f"{path}, record 1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", "{", "7"])
def test_files_without_records_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "edits.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_round_edits(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="unknown data set 'nothing'"):
        load_round_edits("nothing")
