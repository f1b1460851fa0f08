"""``collabedit requests check``, and --skip-bad where requests are read."""

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
