from __future__ import annotations

from pathlib import Path

import numpy

from collabedit.errors import InputError
from collabedit.messages import Covariance
from tests.cli.stats.running import stats_command


def write_npz(path: Path, scale: float) -> Path:
    arrays = {"mom2.mom2": scale * numpy.eye(48, dtype="float32"), "mom2.count": 4}
    numpy.savez(path, **arrays)
    return path


def test_npz_statistics_are_imported(model_directory, tmp_path):
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


def test_import_refuses_bad_files(model_directory, tmp_path):
    other = write_npz(tmp_path / "other.npz", 4.0)
    result = stats_command("import", "--model", model_directory, other)
    assert isinstance(result.exception, InputError)
    assert "LAYER" in str(result.exception)
    result = stats_command("import", "--model", model_directory, f"{other}:1", f"{other}:1")
    assert isinstance(result.exception, InputError)
    assert "given twice" in str(result.exception)
