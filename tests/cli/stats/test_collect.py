from __future__ import annotations

import pytest

from collabedit.errors import InputError, ModelError
from collabedit.messages import Covariance
from tests.cli.stats.running import stats_command


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
def test_collect_refuses_bad_input(model_directory, tmp_path, arguments, kind, message):
    out = tmp_path / "c.safetensors"
    result = stats_command(
        "collect", "--model", model_directory, "--device", "cpu", "-o", out, *arguments
    )
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)
    assert not out.exists()
