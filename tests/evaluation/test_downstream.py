"""Downstream tasks: the package's own, on models, offline."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import pytest

from collabedit.errors import InputError
from collabedit.evaluation.downstream import OWN_TASKS, check_tasks, downstream
from collabedit.models import LanguageModel


@pytest.mark.parametrize("task", OWN_TASKS)
def test_every_item_has_one_right_choice_of_four(task: str) -> None:
    text = resources.files("collabedit.evaluation").joinpath("tasks", f"{task}.jsonl").read_text()
    items = [json.loads(line) for line in text.splitlines()]
    assert 40 <= len(items) <= 100
    assert len({item["query"] for item in items}) == len(items)
    for item in items:
        assert len(set(item["choices"])) == 4
        assert 0 <= item["gold"] < 4
    golds = [item["gold"] for item in items]
    assert max(golds.count(choice) for choice in range(4)) < len(items) / 2


@pytest.mark.slow
def test_the_real_model_is_far_above_chance(smollm2: LanguageModel) -> None:
    pytest.importorskip("lm_eval")
    found = downstream(smollm2, limit=40)
    assert set(found) == set(OWN_TASKS)
    for scores in found.values():
        assert scores["acc"] > 0.25 + 4 * (0.25 * 0.75 / 40) ** 0.5  # four errors of guessing


@pytest.mark.slow
def test_unknown_tasks_are_named(tiny_llama: LanguageModel) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(InputError, match="nosuchtask"):
        downstream(tiny_llama, ["capitals", "nosuchtask"])


@pytest.mark.slow
def test_a_file_of_items_is_a_task(smollm2: LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    own = resources.files("collabedit.evaluation").joinpath("tasks", "capitals.jsonl").read_text()
    path = tmp_path / "cities.jsonl"
    path.write_text(own)
    found = downstream(smollm2, ["capitals", str(path)], limit=20)
    assert found["cities"] == found["capitals"]


@pytest.mark.slow
def test_outside_of_a_repository_git_says_nothing(
    tiny_llama: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The harness asks git for a version, which complains of a folder that it does not know."""
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(tmp_path)
    downstream(tiny_llama, ["capitals"], limit=1)
    assert capfd.readouterr().err == "Measuring capitals\n"
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


@pytest.mark.slow  # lm-eval takes long to load
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}\n', "line 1: an item needs"),
        ('{"query": "a", "choices": ["b"], "gold": 0}\n{"query": "a"}\n', "line 2: an item needs"),
        ("no JSON\n", "line 1: an item needs"),
        ("", "has no items"),
    ],
)
def test_bad_items_are_named(tmp_path: Path, text: str, said: str) -> None:
    pytest.importorskip("lm_eval")
    path = tmp_path / "task.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        check_tasks([str(path)])
    with pytest.raises(InputError, match="cannot read the task"):
        check_tasks([str(tmp_path / "missing.jsonl")])
