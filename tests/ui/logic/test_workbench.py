"""Editing, asking and saving a tiny model without a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collabedit.errors import InputError, RoundError, UnknownNameError
from collabedit.evaluation.answers import write
from collabedit.evaluation.forms import Probe, form_of
from collabedit.messages import Delta
from collabedit.models import load_model
from collabedit.progress import progress
from collabedit.ui.logic import EditSettings, JobState, Neighbour, Workbench, workbench
from tests.ui.bench import FACT
from tests.ui.bench import workbench as make_workbench


@pytest.fixture(scope="module")
def edited(model_dir: Path) -> Workbench:
    """A workbench whose one fact is edited."""
    bench = make_workbench(model_dir)
    job = bench.edit()
    assert job.wait(120)
    assert job.state is JobState.DONE, job.error
    return bench


def said_by(model_dir: Path, delta: Delta | None, prompt: str) -> str:
    """What a separately loaded model says; with a delta, after applying it permanently."""
    model = load_model(model_dir / "model")
    if delta is not None:
        model.apply_(delta.changes)
    ((text, _),) = write(model, [Probe(form_of("raw"), prompt, ())], max_tokens=40)
    return text


def test_an_edit_asks_about_the_fact_and_its_neighbours(edited: Workbench, model_dir: Path) -> None:
    found = edited.edited
    assert found is not None
    assert found.outcomes is not None
    assert [one.request.target_new for one in found.outcomes.each] == [FACT.target]
    assert all(change.dense().norm() > 0 for change in found.delta.changes.values())
    (neighbour,) = found.neighbours
    assert neighbour.prompt == "The capital of Italy is"
    assert neighbour.before == said_by(model_dir, None, neighbour.prompt)
    assert neighbour.after == said_by(model_dir, found.delta, neighbour.prompt)


def test_questions_are_asked_before_and_after(edited: Workbench, model_dir: Path) -> None:
    job = edited.ask("  The capital of France is ")
    assert job.wait(60)
    assert edited.edited is not None
    (said,) = job.result  # the tiny model has no chat template
    assert said.question == "The capital of France is"
    assert not said.chat
    assert said.before == said_by(model_dir, None, said.question)
    assert said.after == said_by(model_dir, edited.edited.delta, said.question)
    assert edited.said[0] == said
    with pytest.raises(InputError, match="type a question"):
        edited.ask("  ")


def test_a_model_is_asked_before_anything_is_edited(model_dir: Path) -> None:
    bench = make_workbench(model_dir)
    job = bench.ask("The capital of France is")
    assert job.wait(60)
    (said,) = job.result
    assert said.after is None
    assert said.before == said_by(model_dir, None, said.question)


@pytest.mark.parametrize(
    ("to", "name"), [("delta", "d.safetensors"), ("lora", "adapter"), ("model", "edited")]
)
def test_the_edited_model_is_saved(edited: Workbench, tmp_path: Path, to: str, name: str) -> None:
    job = edited.export(to, str(tmp_path / name))
    assert job.wait(60)
    assert job.state is JobState.DONE, job.error
    assert job.result[0] == f"Saved in {tmp_path / name}"
    assert (tmp_path / name).exists()
    if to == "delta":
        assert edited.edited is not None
        assert Delta.load(tmp_path / name).sha256 == edited.edited.delta.sha256
    if to == "model":
        again = edited.export(to, str(tmp_path / name))
        assert again.wait(60)
        assert "is not empty" in again.error
        again = edited.export(to, str(tmp_path / name), overwrite=True)
        assert again.wait(60)
        assert again.state is JobState.DONE


def test_saving_needs_an_edit_a_format_and_a_path(edited: Workbench, model_dir: Path) -> None:
    with pytest.raises(InputError, match="nothing to save yet"):
        make_workbench(model_dir).export("delta", "d.safetensors")
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        edited.export("delta", "d.txt")
    with pytest.raises(InputError, match="name the file"):
        edited.export("delta", " ")
    with pytest.raises(UnknownNameError):
        edited.export("zip", "d.zip")


def test_a_merged_delta_is_opened(edited: Workbench, model_dir: Path, tmp_path: Path) -> None:
    assert edited.edited is not None
    edited.edited.delta.save(tmp_path / "d.safetensors")
    bench = make_workbench(model_dir)
    job = bench.open_delta(tmp_path / "d.safetensors")
    assert job.wait(60)
    assert job.state is JobState.DONE, job.error
    assert bench.edited is not None
    assert bench.edited.outcomes is None
    asked = bench.ask("The capital of France is")
    assert asked.wait(60)
    (said,) = asked.result
    assert said.after == said_by(model_dir, edited.edited.delta, said.question)
    with pytest.raises(RoundError):
        bench.open_delta(model_dir / "covariance.safetensors")


def test_a_stopped_edit_leaves_the_model_unchanged(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_workbench(model_dir)
    before = bench.ask("The capital of France is")
    assert before.wait(60)

    def stops(*_: object) -> None:
        job.stop()
        with progress("Generating"):
            raise AssertionError("it must stop where the stage begins")

    monkeypatch.setattr(workbench, "_neighbours", stops)
    job = bench.edit()
    assert job.wait(60)
    assert job.state is JobState.STOPPED
    assert bench.edited is None
    after = bench.ask("The capital of France is")
    assert after.wait(60)
    assert after.result == before.result


def test_edits_and_settings_are_checked_before_anything_is_loaded(model_dir: Path) -> None:
    bench = make_workbench(model_dir)
    bench.change(editor="ROMEO")
    with pytest.raises(UnknownNameError, match="ROMEO"):
        bench.edit()
    bench.change(editor="MEMIT", model=" ")
    with pytest.raises(InputError, match="name a model"):
        bench.edit()
    bench.drafts[0].target = ""
    with pytest.raises(InputError, match="1 edit needs your attention"):
        bench.edit()
    assert bench.jobs.current is None
    assert Workbench(bench.jobs).settings == EditSettings()


def test_files_of_edits_are_added(model_dir: Path, tmp_path: Path) -> None:
    bench = make_workbench(model_dir)
    facts = tmp_path / "facts.jsonl"
    lines = [
        {"prompt": "The capital of {} is", "subject": "Italy", "target": "Milan"},
        {"prompt": FACT.prompt, "subject": FACT.subject, "target": "Nice", "extra": 1},
    ]
    facts.write_text("\n".join(map(json.dumps, lines)))
    assert bench.load_file(facts, "mine.jsonl") == ["unknown fields, not used: 'extra'"]
    assert bench.sources == ("mine.jsonl (2)",)
    assert bench.review().problem == "1 edit needs your attention"
    bench.clear_files()
    assert bench.review().problem is None
    facts.write_text('{"prompt": "The capital is"}')
    with pytest.raises(InputError, match=r"mine\.jsonl"):
        bench.load_file(facts, "mine.jsonl")
    with pytest.raises(InputError):
        bench.load_file(tmp_path / "none.json")
    assert not bench.loaded


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ("is Rome.", "is Rome.", "same"),
        ("is Rome.", "is called Rome today.", "other words, still right"),
        ("is Rome.", "is Lyon.", "changed"),
    ],
)
def test_neighbours_get_a_verdict(before: str, after: str, verdict: str) -> None:
    assert Neighbour("The capital of Italy", "Rome", before, after).verdict == verdict
    assert Neighbour("x", None, "a", "b").verdict == "changed"
