"""What edited models say: ``ask``, ``edit`` and ``apply`` with their verdicts, and ``evaluate``."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from collabedit.evaluation.outcomes import Outcomes
from collabedit.messages import Delta
from tests.cli.commands import collabedit, fails, status_of
from tests.conftest import CORPUS, make_model, save_model
from tests.evaluation.test_answers import TEMPLATE

PROMPT = "The capital of France is"
FACT = {"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}
EDIT = ("edit", "--model", "model", "-r", "facts.jsonl", "--hparams", "weak.json")
ALL = (*EDIT, "-C", "cov.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models without and with a chat template, facts, and settings that change little."""
    folder = tmp_path_factory.mktemp("ask")
    model = make_model("llama")
    save_model(model, folder / "model")
    chat = make_model("llama", max_position_embeddings=512)  # room for a chat
    chat.tokenizer.chat_template = TEMPLATE
    save_model(chat, folder / "chat")
    (folder / "facts.jsonl").write_text(json.dumps(FACT))
    known = {**FACT, "target": continuation(folder / "model")}
    (folder / "known.jsonl").write_text(json.dumps(known))
    weak = {"layers": [1], "target_steps": 1, "prior_weight": 1e6}
    (folder / "weak.json").write_text(json.dumps(weak))
    (folder / "corpus.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    collabedit(
        *("stats", "collect", "--model", folder / "model", "--layers", 1, "--tokens", 2000),
        *("--corpus", folder / "corpus.txt", "-o", folder / "cov.safetensors"),
    )
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def continuation(folder: Path, tokens: int = 1) -> str:
    """What plain transformers writes after the prompt, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    text: str = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :])
    return text.strip()


def cells(printed: str) -> str:
    """A table's text in one line, without its frame."""
    return " ".join(re.sub(r"[│┃]", " ", printed).split())


# ask


def test_answers_match_plain_transformers(work: Path) -> None:
    printed = collabedit("ask", "model", PROMPT, "--max-tokens", 3)
    assert continuation(work / "model", 3) in cells(printed)
    assert "before" not in printed


def test_a_model_with_a_template_is_asked_in_a_chat_too(work: Path) -> None:
    plain, chat = (collabedit("ask", name, PROMPT, "--max-tokens", 2) for name in ("model", "chat"))
    assert plain.count(PROMPT) == 1
    assert " chat " not in plain
    assert chat.count(PROMPT) == 2
    assert " chat " in chat


def test_a_delta_is_asked_before_and_after(work: Path) -> None:
    collabedit(*ALL, "--no-ask", "-o", "d.safetensors")
    printed = collabedit("ask", "d.safetensors", PROMPT, "--max-tokens", 2)
    assert "before" in printed
    assert "after" in printed
    collabedit("apply", "d.safetensors", "-o", "edited")
    assert continuation(work / "edited", 2) in cells(printed)
    both = collabedit("ask", "edited", PROMPT, "--model", "model", "--max-tokens", 2)
    assert cells(both) == cells(printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ask", "model"), "give either questions or --requests FILE"),
        (("ask", "model", PROMPT, "-r", "facts.jsonl"), "give either questions or"),
        (("ask", "model", PROMPT, "--strict"), "--strict needs --requests"),
        (("ask", "model", "-r", "facts.jsonl"), "--requests compares before and after"),
        (("ask", "model", "-r", "nowhere.jsonl", "-m", "model"), "nowhere.jsonl"),
        (("ask", "nowhere.safetensors", PROMPT), "nowhere.safetensors"),
        (("apply", "d.safetensors", "-o", "out", "--strict"), "--strict needs --requests"),
        ((*ALL, "-o", "out", "--strict", "--no-ask"), "--strict needs the answers"),
        (("evaluate", "model", "--tasks", ","), "no task is named"),
    ],
)
def test_invalid_questions_are_refused(
    work: Path, arguments: tuple[object, ...], message: str
) -> None:
    assert message in fails(*arguments)


# Verdicts


@pytest.mark.parametrize(("facts", "status"), [("facts.jsonl", 1), ("known.jsonl", 0)])
def test_strict_fails_unless_every_edit_took(work: Path, facts: str, status: int) -> None:
    """An edit that hardly changes the model takes only if the model already says the object."""
    edit = ("edit", "--model", "model", "-r", facts, "--hparams", "weak.json")
    found, printed = status_of(
        *(*edit, "-C", "cov.safetensors", "--no-retry", "--strict", "-o", "d.safetensors")
    )
    assert found == status, printed
    assert f"{1 - status} of 1 edit took" in printed
    assert Delta.load("d.safetensors").metadata.edits == 1  # kept regardless of the verdict
    for again in (
        ("ask", "d.safetensors", "-r", facts, "--strict"),
        ("apply", "d.safetensors", "-o", "edited", "--requests", facts, "--strict"),
    ):
        found, said = status_of(*again)
        assert found == status
        assert f"{1 - status} of 1 edit took" in said
    assert (work / "edited" / "model.safetensors").is_file()
    assert collabedit("ask", "d.safetensors", "-r", facts)  # without --strict it is no failure


def test_with_a_chat_template_both_forms_are_shown(work: Path) -> None:
    edit = ("edit", "--model", "chat", "-r", "facts.jsonl", "--hparams", "weak.json")
    printed = collabedit(*edit, "-C", "cov.safetensors", "--no-retry", "-o", "d.safetensors")
    assert "asked in chat" in cells(printed)
    assert "capital of France" in cells(printed)


def test_retry_gives_failed_edits_a_second_pass(
    work: Path,
) -> None:
    printed = collabedit(*ALL, "--no-retry", "-o", "once.safetensors")
    assert "second pass" not in printed
    printed = collabedit(*ALL, "--retry", "-o", "twice.safetensors")
    assert "1 had a second pass" in printed
    # The second pass did not help, so the first one is kept.
    once, twice = (Delta.load(f"{name}.safetensors").changes for name in ("once", "twice"))
    assert all(torch.equal(once[name].dense(), twice[name].dense()) for name in once)


def test_a_second_pass_that_helps_is_kept(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collabedit import collaboration

    judged: list[Outcomes] = []
    original = collaboration.outcomes

    def second_time_lucky(*given: Any) -> Outcomes:
        found = original(*given)
        changed = []
        for one in found.each:
            before, after = one.raw
            answer: Any = {**after, "right": bool(judged)}
            changed.append(replace(one, raw=(before, answer)))
        judged.append(Outcomes(tuple(changed)))
        return judged[-1]

    collabedit(*ALL, "--no-ask", "-o", "once.safetensors")
    monkeypatch.setattr(collaboration, "outcomes", second_time_lucky)
    found, printed = status_of(*ALL, "--strict", "-o", "twice.safetensors")
    assert found == 0
    assert "1 of 1 edit took; 1 had a second pass" in printed
    first, second = (Delta.load(f"{name}.safetensors") for name in ("once", "twice"))
    assert second.metadata.prior_weight == pytest.approx(first.metadata.prior_weight / 3)
    once, twice = first.changes, second.changes
    assert not any(torch.equal(once[name].dense(), twice[name].dense()) for name in once)


# evaluate


def test_tasks_are_measured_with_and_without_a_delta(work: Path) -> None:
    pytest.importorskip("lm_eval")
    tasks = ("--tasks", "capitals, opposites", "--limit", 4, "--json")
    (alone,) = json.loads(collabedit("evaluate", "model", *tasks)).values()
    assert set(alone) == {"capitals", "opposites"}
    assert all(0 <= scores["acc"] <= 1 for scores in alone.values())
    collabedit(*ALL, "--no-ask", "-o", "d.safetensors")
    both = json.loads(collabedit("evaluate", "model", "--delta", "d.safetensors", *tasks))
    assert list(both) == ["unedited", "edited"]
    assert both["unedited"] == alone
    shown = cells(collabedit("evaluate", "model", "--delta", "d.safetensors", *tasks[:-1]))
    assert "unedited" in shown
    assert "edited" in shown
    assert "capitals" in shown
