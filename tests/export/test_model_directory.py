"""Saved models: the type of the weights, and what plain ``transformers`` makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from collabedit.algebra import LowRankUpdate
from collabedit.export import save_edited_model
from collabedit.messages import Delta
from tests.conftest import half_step, make_model
from tests.rounds.test_round import make_round


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_saved_model_keeps_its_type_and_has_the_rounded_sum(tmp_path: Path, dtype: str) -> None:
    model = make_model("llama", dtype=getattr(torch, dtype))
    config = make_round(model)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return 0.02 * torch.randn(*shape, dtype=torch.float64, generator=generator)

    changes = {name: LowRankUpdate(random(32, 2), random(2, 48)) for name in config.weight_names}
    exact = {name: model.weight(name).double() + changes[name].dense() for name in changes}
    save_edited_model(model, Delta.of(config, changes), tmp_path / "edited")
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype="auto")
    assert {str(p.dtype) for p in saved.parameters()} == {f"torch.{dtype}"}
    assert json.loads((tmp_path / "edited" / "config.json").read_text())["dtype"] == dtype
    for name, wanted in exact.items():
        error = (saved.get_parameter(name).double() - wanted).abs()
        assert (error <= half_step(wanted, getattr(torch, dtype))).all()
