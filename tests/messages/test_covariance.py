from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from collabedit.errors import CovarianceError, InputError
from collabedit.files import StoredTensors
from collabedit.messages import Covariance


@pytest.fixture(scope="module")
def covariance() -> Covariance:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(2, 6, 50, dtype=torch.float64, generator=generator)
    names = ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"]
    return Covariance(
        second_moments={name: f @ f.T / 50 for name, f in zip(names, factors, strict=True)},
        samples=50,
        corpus="tests",
        model="tiny",
        model_sha256={names[0]: "aa", names[1]: "bb"},
        sampling_error={names[0]: 0.1, names[1]: 0.2},
        created="2025-01-01T00:00:00+00:00",
    )


def test_a_covariance_round_trips(covariance, tmp_path):
    covariance.save(tmp_path / "c.safetensors")
    loaded = Covariance.load(tmp_path / "c.safetensors")
    for name, moment in covariance.second_moments.items():
        assert torch.equal(loaded.second_moments[name], moment)
    for field in ("samples", "corpus", "model", "model_sha256", "sampling_error", "created"):
        assert getattr(loaded, field) == getattr(covariance, field)
    assert loaded.collabedit == covariance.collabedit


METADATA: dict[str, Any] = {
    "format": "collabedit.covariance",
    "version": 1,
    "samples": 50,
    "corpus": "tests",
    "model": "tiny",
    "model_sha256": {"h.1.w": "aa"},
    "sampling_error": {},
    "created": "2025-01-01T00:00:00+00:00",
    "collabedit": "0.1",
}


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
    save_file(tensors, path, {key: json.dumps(value) for key, value in metadata.items()})


def test_float32_is_read(tmp_path):
    write(tmp_path / "c", {"h.1.w/second_moment": torch.eye(3)}, METADATA)
    assert Covariance.load(tmp_path / "c").second_moments["h.1.w"].dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "collabedit.update"}, "its format is .collabedit.update"),
        ({"format": None}, "its format is not given"),
        ({"version": 2}, "version 2 of collabedit.covariance is not known"),
        ({"samples": 0}, "samples: Input should be greater than 0"),
        ({"samples": True}, "samples: Input should be a valid integer"),
        ({"samples": 1.5}, "samples: Input should be a valid integer"),
        ({"corpus": None}, "corpus: Input should be a valid string"),
        ({"model": ["a"]}, "model: Input should be a valid string"),
        ({"created": 3}, "created: Input should be a valid string"),
        ({"model_sha256": {}}, "hash of each weight"),
        ({"model_sha256": "aa"}, "model_sha256: Input should be a valid dict"),
        ({"model_sha256": {"h.1.w": 7}}, "model_sha256.h.1.w: Input should be a valid string"),
        ({"sampling_error": {"other": 0.1}}, "sampling errors of other weights"),
        ({"sampling_error": {"h.1.w": -0.1}}, "sampling_error.h.1.w: Input should be greater"),
        ({"sampling_error": {"h.1.w": "big"}}, "sampling_error.h.1.w: Input should be a valid"),
    ],
)
def test_hostile_metadata_is_refused(tmp_path, changes, message):
    path = tmp_path / "hostile.safetensors"
    write(path, {"h.1.w/second_moment": torch.eye(3)}, {**METADATA, **changes})
    with pytest.raises(CovarianceError, match=f"hostile.safetensors: .*{message}"):
        Covariance.load(path)


@pytest.mark.parametrize(
    ("name", "matrix", "message"),
    [
        ("h.1.w/second_moment", torch.eye(3).half(), "has type torch.float16"),
        ("h.1.w/second_moment", torch.eye(3).long(), "has type torch.int64"),
        ("h.1.w/second_moment", torch.ones(3), "not a square"),
        ("h.1.w/second_moment", torch.ones(3, 2), "not a square"),
        ("h.1.w/second_moment", torch.zeros(0, 0), "not a square"),
        ("h.1.w/second_moment", torch.full((2, 2), torch.nan), "NaN or infinite"),
        ("h.1.w/second_moment", torch.tensor([[1.0, 0.1], [0.0, 1.0]]), "not symmetric"),
        ("h.1.w/second_moment", torch.diag(torch.tensor([1.0, -1.0])), "diagonal"),
        ("h.1.w/second_moment", torch.zeros(2, 2), "diagonal"),
        ("h.1.w/keys", torch.eye(3), "unknown tensor 'h.1.w/keys'"),
        ("/second_moment", torch.eye(3), "unknown tensor '/second_moment'"),
    ],
)
def test_hostile_matrices_are_refused(tmp_path, name, matrix, message):
    path = tmp_path / "hostile.safetensors"
    write(path, {name: matrix}, METADATA)
    with pytest.raises(CovarianceError, match=f"hostile.safetensors: .*{message}"):
        Covariance.load(path)


def test_a_file_without_matrices_is_refused(tmp_path):
    write(tmp_path / "c", {}, METADATA)
    with pytest.raises(CovarianceError, match="no matrix"):
        Covariance.load(tmp_path / "c")


def test_files_that_are_not_safetensors_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Covariance.load(tmp_path / "absent")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="not a safetensors file"):
        Covariance.load(tmp_path / "text")


@pytest.mark.parametrize("value", ["not JSON", "[" * 100_000])
def test_metadata_that_is_not_json_is_refused(tmp_path, value):
    save_file({"h.1.w/second_moment": torch.eye(3)}, tmp_path / "c", {"format": value})
    with pytest.raises(InputError, match="metadata was not written by collabedit"):
        Covariance.load(tmp_path / "c")


def test_another_model_is_refused(covariance):
    covariance.check_model(covariance.model_sha256)
    covariance.check_model({"model.layers.2.mlp.down_proj.weight": "bb"})
    with pytest.raises(CovarianceError, match=r"another model: its model.layers.1.mlp"):
        covariance.check_model({"model.layers.1.mlp.down_proj.weight": "cc"})
    needed = {**covariance.model_sha256, "model.layers.13.mlp.down_proj.weight": "dd"}
    with pytest.raises(CovarianceError) as caught:
        covariance.check_model(needed)
    message = str(caught.value)
    assert "has layers 1,2, but layers 13 are needed too" in message
    assert "collabedit stats collect --model tiny --layers 1,2,13" in message


def test_asking_whether_a_weight_is_there_reads_no_matrix(covariance, tmp_path, monkeypatch):
    covariance.save(tmp_path / "c.safetensors")
    stored = Covariance.load(tmp_path / "c.safetensors").second_moments
    monkeypatch.setattr(StoredTensors, "__getitem__", None)
    assert "model.layers.1.mlp.down_proj.weight" in stored
    assert "model.layers.3.mlp.down_proj.weight" not in stored
