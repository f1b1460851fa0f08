from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from collabedit.covariance import default_covariance
from collabedit.messages import Covariance
from tests.covariance.measuring import silent


def test_default_covariance_is_collected_once(tiny_llama, monkeypatch, tmp_path):
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path))
    said: list[str] = []

    def default(layers: Sequence[int], seed: int = 0) -> Covariance:
        return default_covariance(tiny_llama, layers, seed, tokens=200, say=said.append)

    first = default([0, 1])
    assert first.samples == 200
    assert "collabedit stats collect" in said[0]
    said.clear()
    again = default([1, 0])
    assert said == []
    for name, moment in first.second_moments.items():
        assert torch.equal(again.second_moments[name], moment)
    other = default([0, 1], seed=1)
    assert said
    assert not torch.equal(other.second_moments[name], moment)
    assert len(list((tmp_path / "covariance").iterdir())) == 2


def test_a_changed_model_gets_another_default_covariance(double_llama, monkeypatch, tmp_path):
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path))
    name = double_llama.weight_names([0])[0]
    default_covariance(double_llama, [0], tokens=100, say=silent)
    saved = double_llama.weight(name)[0, 0].clone()
    double_llama.weight(name)[0, 0] += 1
    try:
        changed = default_covariance(double_llama, [0], tokens=100, say=silent)
        changed.check_model(double_llama.fingerprint([name]))
    finally:
        double_llama.weight(name)[0, 0] = saved


@pytest.mark.parametrize("full", [False, True], ids=["read-only", "full"])
def test_an_unwritable_cache_is_not_an_error(tiny_llama, monkeypatch, tmp_path, full):
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path) if full else "/proc/none")
    if full:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    said: list[str] = []
    found = default_covariance(tiny_llama, [0], tokens=100, say=said.append)
    assert found.samples == 100
    assert "the covariance will not be kept" in said[1]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_broken_cache_is_collected_again(tiny_llama, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("COLLABEDIT_CACHE", str(tmp_path))
    first = default_covariance(tiny_llama, [0], tokens=100, say=silent)
    (file,) = (tmp_path / "covariance").iterdir()
    file.write_bytes(b"broken")
    again = default_covariance(tiny_llama, [0], tokens=100, say=silent)
    assert "collecting it again" in caplog.text
    name = tiny_llama.weight_names([0])[0]
    assert torch.equal(first.second_moments[name], again.second_moments[name])
