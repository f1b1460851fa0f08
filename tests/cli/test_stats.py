from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from typer.testing import CliRunner, Result

from collabedit.cli import stats
from collabedit.errors import InputError, ModelError
from collabedit.messages import Covariance
from collabedit.models import LanguageModel


@pytest.fixture(scope="module")
def model_directory(tiny_llama: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama.hf.save_pretrained(folder)
    tiny_llama.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("The capital of France is Paris.\n\n" * 100, encoding="utf-8")
    return path


def stats_command(*arguments: object) -> Result:
    return CliRunner().invoke(stats.app, [str(argument) for argument in arguments])


def test_collect_prints_cost_and_table(model_directory, corpus_file, tmp_path):
    out = tmp_path / "c.safetensors"
    result = stats_command(
        *("collect", "--model", model_directory, "--layers", "1-2", "--corpus", corpus_file),
        *("--tokens", 300, "-o", out, "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    assert "300 tokens of corpus.txt; 2 layers (1, 2) of 48 inputs" in result.stderr
    assert "model.layers.2.mlp.down_proj.weight" in result.stdout
    assert "%" in result.stdout
    covariance = Covariance.load(out)
    assert covariance.samples == 300
    assert list(covariance.second_moments) == [
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
    ]


def test_collect_takes_the_edited_layers_and_self_by_default(
    model_directory, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = stats_command(
        "collect", "--model", model_directory, "--tokens", 100, "--seed", 7, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    covariance = Covariance.load(tmp_path / "tiny-covariance.safetensors")
    assert len(covariance.second_moments) == 4
    assert covariance.corpus == "self: sampled from the model at temperature 1, seed 7"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--layers", "five"], InputError, "--layers"),
        (["--layers", "3-1"], InputError, "--layers"),
        (["--layers", "9"], ModelError, "no layer 9"),
        (["--corpus", "absent.txt"], InputError, "absent.txt"),
        (["--corpus", "self", "--corpus", "absent.txt"], InputError, "cannot be mixed"),
    ],
)
def test_collect_errors(model_directory, tmp_path, arguments, kind, message):
    out = tmp_path / "c.safetensors"
    result = stats_command(
        "collect", "--model", model_directory, "--device", "cpu", "-o", out, *arguments
    )
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)
    assert not out.exists()


def test_show(model_directory, corpus_file, tmp_path):
    out = tmp_path / "c.safetensors"
    stats_command(
        *("collect", "--model", model_directory, "--layers", "0", "--corpus", corpus_file),
        *("--tokens", 300, "-o", out, "--device", "cpu"),
    )
    table = stats_command("show", out)
    assert table.exit_code == 0, table.output
    assert "samples: 300" in table.stdout
    facts = json.loads(stats_command("show", out, "--json").stdout)
    covariance = Covariance.load(out)
    (name,) = covariance.second_moments
    row = facts["weights"][name]
    assert row["trace"] == float(covariance.second_moments[name].trace())
    assert row["sampling_error"] == covariance.sampling_error[name]
    assert facts["corpus"] == "corpus.txt"


def write_npz(path: Path, scale: float) -> Path:
    arrays = {"mom2.mom2": scale * numpy.eye(48, dtype="float32"), "mom2.count": 4}
    numpy.savez(path, **arrays)
    return path


def test_import(model_directory, tmp_path):
    named = write_npz(tmp_path / "model.layers.2.mlp.down_proj_float32_mom2_4.npz", 8.0)
    other = write_npz(tmp_path / "other.npz", 4.0)
    out = tmp_path / "c.safetensors"
    result = stats_command("import", "--model", model_directory, "-o", out, named, f"{other}:0")
    assert result.exit_code == 0, result.output
    assert "unknown" in result.stdout
    covariance = Covariance.load(out)
    traces = {name: float(moment.trace()) for name, moment in covariance.second_moments.items()}
    assert traces == {
        "model.layers.0.mlp.down_proj.weight": 48.0,
        "model.layers.2.mlp.down_proj.weight": 96.0,
    }


def test_import_errors(model_directory, tmp_path):
    other = write_npz(tmp_path / "other.npz", 4.0)
    result = stats_command("import", "--model", model_directory, other)
    assert isinstance(result.exception, InputError)
    assert "LAYER" in str(result.exception)
    result = stats_command("import", "--model", model_directory, f"{other}:1", f"{other}:1")
    assert isinstance(result.exception, InputError)
    assert "given twice" in str(result.exception)
