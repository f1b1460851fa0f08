"""The demonstration: a federation of real processes that edits a real model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collabedit.errors import InputError
from collabedit.federation.demo import DemoSettings, run_demo
from collabedit.messages import Schedule

pytest.importorskip("nvflare")


def test_a_round_over_mutual_tls_gives_the_bits_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The parties' processes must sum in the same order as this one.
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    settings = DemoSettings(parties=3, edits_per_party=1)
    assert run_demo(tmp_path / "demo", settings, [Schedule.LAYERWISE]) == 0
    assert "of 3 organisations, smollm2-135m, mutual TLS" in capsys.readouterr().out
    assert (tmp_path / "demo" / "rounds-layerwise" / "round_001" / "delta.safetensors").is_file()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already exists"):
        run_demo(tmp_path, DemoSettings(), [Schedule.LAYERWISE])
