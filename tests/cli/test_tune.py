"""``collabedit tune``: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from collabedit.covariance import collect, file_corpus
from collabedit.editors import Hyperparameters
from collabedit.tuning import TuneSettings, causal_tracing
from tests.cli.commands import collabedit, fails
from tests.experiments.studies import Tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def arguments(tiny: Tiny, tmp_path: Path) -> list[object]:
    hparams = tmp_path / "hparams.json"
    hparams.write_text(json.dumps({"layers": [0, 1], "target_steps": 2, "prior_weight": 5.0}))
    return [
        *("tune", tiny.folder / "model", "-D", tiny.folder / "facts.json"),
        *("--hparams", hparams, "--records", 3, "--facts", 3, "--draws", 1, "--trials", 1),
        *("--results", tmp_path / "results"),
    ]


def test_the_preset_serves_other_commands(
    tiny: Tiny, tmp_path: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_tracing, "KNOWN_PROBABILITY", 0.0)
    preset = tmp_path / "preset.json"
    printed = collabedit(*arguments, "-C", tiny.covariance(), "-o", preset)
    assert "(present)" in printed
    assert "their MLPs restored" in printed
    assert f"collabedit edit --model {tiny.folder / 'model'} --hparams {preset}" in printed
    settings = Hyperparameters.from_file(preset)
    assert settings.prior_weight in (0.5, 5.0, 50.0)
    (folder,) = (tmp_path / "results" / "MEMIT").iterdir()
    report = (folder / "report.md").read_text()
    assert "| 0-1 |" in report
    assert "| 0-1 (present) |" in report
    assert (folder / "plot.png").is_file()
    assert Hyperparameters.from_file(folder / "preset.json") == settings
    request = {"prompt": "{} speaks the", "subject": "Anna", "target": "French"}
    (tmp_path / "facts.jsonl").write_text(json.dumps(request))
    edited = tmp_path / "edited"
    collabedit(
        *("edit", "--model", tiny.folder / "model", "--requests", tmp_path / "facts.jsonl"),
        *("--hparams", preset, "-C", tiny.covariance(), "-o", edited),
    )
    assert (edited / "config.json").is_file()
    shown = collabedit("summarize", folder)
    assert "their MLPs restored" in shown


def test_without_trials_the_layers_to_try_are_named(
    tmp_path: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_tracing, "KNOWN_PROBABILITY", 0.0)
    printed = collabedit(*arguments, "--trials", 0)
    assert re.search(r"Layers to try, by the effect of their MLPs: [01]-[12]", printed)
    assert "--hparams" not in printed
    (folder,) = (tmp_path / "results" / "MEMIT").iterdir()
    assert "their MLPs restored" in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--records", 0], "records"),
        (["--trials", -1], "trials"),
        (["--records", 50], "the data set has 40"),
        (["--editor", "FT-L"], "nothing to tune"),
        (["--editor", "MEMOIR"], "unknown editor 'MEMOIR'"),
        (["-D", "nowhere.json"], "nowhere.json"),
        ([], "knows none of the 40 true objects"),
    ],
)
def test_bad_input_gets_one_line(
    arguments: list[object], changes: list[object], message: str
) -> None:
    assert message in fails(*arguments, *changes)


def test_a_covariance_must_have_all_layers_to_try(
    tiny: Tiny, tmp_path: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_tracing, "KNOWN_PROBABILITY", 0.0)
    covariance = tmp_path / "covariance.safetensors"
    corpus = file_corpus([tiny.folder / "corpus.txt"], 0)
    collect(tiny.model(), [0], corpus, tokens=2000, out=covariance)
    assert "layers 1 are needed too" in fails(*arguments, "-C", covariance)


def test_help_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = re.sub(r"\x1b\[[0-9;]*m", "", collabedit("tune", "--help"))
    for word in ("Causal tracing", "--trials", "--records", "--hparams", "--out", "--fresh"):
        assert word in text
    made = TuneSettings(model="any")
    for name in ("trials", "records", "facts", "draws", "dataset"):
        assert f"[default: {getattr(made, name)}]" in text
