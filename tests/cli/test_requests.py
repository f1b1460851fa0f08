"""``collabedit requests check``, and --skip-bad wherever requests are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import collabedit, fails

GOOD = {
    "prompt": "The capital of {} is",
    "subject": "Freedonia [bold]",
    "target": "Marxville",
    "paraphrase_prompts": ["Its capital is", "It is ruled from"],
}


def write(folder: Path, *items: object) -> Path:
    path = folder / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, items)))
    return path


def test_it_shows_what_was_understood(tmp_path: Path) -> None:
    others = [{**GOOD, "subject": f"S{number}", "colour": 3} for number in range(6)]
    flat = {"prompt": "A is", "subject": "A", "target_false": "B", "target_true": "C"}
    out = collabedit("requests", "check", write(tmp_path, GOOD, *others, flat), "--show", 2)
    assert "8 edits (7 short form, 1 CounterFact, flat), 0 bad" in out
    assert "Freedonia [bold]" in out
    assert "S0" in out
    assert "S1" not in out
    assert "and 6 more" in out
    assert "note: unknown fields, not used: 'colour'" in out


def test_bad_records_fail_unless_they_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, {**GOOD, "target": "Othertown"})
    assert "line 2, record 1: contradicts line 1, record 0" in fails("requests", "check", path)
    out = collabedit("requests", "check", path, "--skip-bad")
    assert "1 edits (1 short form), 1 bad" in out
    assert "line 2, record 1: contradicts line 1, record 0" in out
    assert "no good records" in fails("requests", "check", write(tmp_path, {}), "--skip-bad")
    assert "no records in it" in fails("requests", "check", write(tmp_path))
    assert "No such file" in fails("requests", "check", tmp_path / "none.json")


@pytest.mark.parametrize("command", ["edit", "contribute"])
def test_bad_requests_stop_a_command_before_its_model_is_loaded(
    tmp_path: Path, command: str
) -> None:
    path = write(tmp_path, {**GOOD, "subject": ""})
    fixtures = Path(__file__).parents[1] / "fixtures" / "v1" / "one-shot"
    own = {"contribute": ["--round", fixtures / "round.json"], "edit": ["--model", "no-such-model"]}
    arguments = [command, *own[command], "-r", path, "-o", tmp_path / "out.safetensors"]
    assert "record 0: 'subject' is empty" in fails(*arguments)
    assert "no good records in it" in fails(*arguments, "--skip-bad")


def query(prompt: str, answer: str) -> dict[str, object]:
    """A query of RippleEdits."""
    return {
        "prompt": prompt,
        "answers": [{"value": answer, "aliases": [f"{answer}s"]}],
        "query_type": "regular",
        "subject_id": "Q1",
        "relation": "MOTHER",
        "target_ids": ["Q2"],
        "phrase": None,
    }


RIPPLE_TESTS = [
    {
        "test_queries": [query("The name of the mother of Vin is", "Ada")],
        "test_condition": "OR",
        "condition_queries": [query("The name of the father of Vin is", "Cy")],
    }
]
RIPPLE_FACT = {"subject_id": "Q1", "relation": "COUNTRY_OF_CITIZENSHIP", "target_id": "Q3"}
#: A record in the whole layout that its data set publishes, and what is to be seen of it.
PUBLISHED: dict[str, tuple[dict[str, object], str]] = {
    "MQuAKE": (
        {
            "case_id": 1561,
            "requested_rewrite": [
                {
                    "prompt": prompt,
                    "relation_id": "P641",
                    "target_new": {"str": target, "id": "Q1"},
                    "target_true": {"str": "rowing", "id": "Q2"},
                    "subject": subject,
                    "question": "And which?",
                }
                for prompt, subject, target in (
                    ("{} is associated with the sport of", "Port Sample F.C.", "chess"),
                    ("{} was created in the country of", "chess", "Sylvania"),
                )
            ],
            "questions": ["Where is it from?", "What is its home?", "Whose is it?"],
            "answer": "London",
            "answer_alias": ["London UK"],
            "answer_extended": ["Londinium"],
            "new_answer": "Oderzo",
            "new_answer_alias": [],
            "single_hops": [{"question": "?", "cloze": "a", "answer": "b", "answer_alias": []}],
            "new_single_hops": [{"question": "?", "cloze": "a", "answer": "c", "answer_alias": []}],
            "orig": {"triples": [["Q5", "P641", "Q2"]], "edit_triples": [["Q5", "P641", "Q1"]]},
        },
        "2 edits (2 MQuAKE), 0 bad",
    ),
    "RippleEdits": (
        {
            "example_type": "popular",
            "edit": {
                "prompt": "The name of the country of citizenship of Vin is Syria.",
                **RIPPLE_FACT,
                "original_fact": {
                    "prompt": "The name of the country of citizenship of Vin is Peru.",
                    **RIPPLE_FACT,
                },
            },
            "Relation_Specifity": RIPPLE_TESTS,  # so spelt in the data's own description
            "Logical_Generalization": RIPPLE_TESTS,
            "Subject_Aliasing": RIPPLE_TESTS,
            "Compositionality_I": [],
            "Compositionality_II": RIPPLE_TESTS,
            "Forgetfulness": RIPPLE_TESTS,
        },
        "1 edits (1 RippleEdits), 0 bad",
    ),
    "KnowEdit": (
        {
            "subject": "Vin",
            "prompt": "The place of birth of Vin is",
            "target_new": "Oslo",
            "portability": {
                "Logical_Generalization": [{"prompt": "Was it Oslo?", "ground_truth": [["Yes"]]}],
                "Reasoning": [{"prompt": "Its country is", "ground_truth": [["Norway", "NO"]]}],
                "Subject_Aliasing": [{"prompt": "V. was born in", "ground_truth": [["Oslo"]]}],
            },
            "locality": {
                "Relation_Specificity": [{"prompt": "Vin's wife is", "ground_truth": [["Ada"]]}],
                "Forgetfulness": [{"prompt": "Vin was born in", "ground_truth": [["Lima"]]}],
            },
        },
        "1 edits (1 EasyEdit), 0 bad",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts_are_understood_in_full(tmp_path: Path, name: str) -> None:
    item, seen = PUBLISHED[name]
    path = tmp_path / "data.json"
    path.write_text(json.dumps([item]))
    out = collabedit("requests", "check", path)
    assert seen in out
    assert "unknown fields" not in out
