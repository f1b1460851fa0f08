"""Models on disk, and random deltas for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from collabedit.algebra import LowRankUpdate
from collabedit.editors import Hyperparameters
from collabedit.messages import Delta
from collabedit.models import LanguageModel, load_model
from collabedit.parties import new_round
from tests.conftest import make_model
from tests.editing.facts import CONTEXTS

OTHERS = {
    "LICENSE": "free",
    "preprocessor_config.json": '{"size": 3}',
    "modeling_own.py": "raise SystemExit",
    "assets/picture.txt": "a picture",
    ".gitattributes": "*.safetensors filter=lfs",
}
LEFT_OUT = (
    "pytorch_model.bin",
    "consolidated.00.pth",
    "optimizer.pt",
    "model.gguf",
    "onnx/model.onnx",
    ".cache/huggingface/x",
    "__pycache__/x.py",
    "checkpoint-5/config.json",
    "checkpoint-5/notes.txt",
)


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def original(folder: Path, family: str = "llama", *, shards: bool = False, **dtype: Any) -> Path:
    """A model's directory with everything that such directories contain."""
    model = make_model(family, **dtype)
    options: dict[str, Any] = {"max_shard_size": "40KB"} if shards else {}
    model.hf.save_pretrained(folder, **options)
    model.tokenizer.save_pretrained(folder)
    for name, text in {**OTHERS, **dict.fromkeys(LEFT_OUT, "weights")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def load(folder: Path, dtype: str = "float32") -> LanguageModel:
    return load_model(str(folder), dtype=dtype, device="cpu")


def random_delta(model: LanguageModel) -> Delta:
    layers = (1,) if model.structure.output_norm else (1, 2)
    settings = Hyperparameters(layers=layers, prior_weight=5.0, target_steps=4)
    config = new_round(model, hyperparameters=settings, contexts=CONTEXTS)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return 0.02 * torch.randn(*shape, dtype=torch.float64, generator=generator)

    changes = {
        name: LowRankUpdate(random(config.d_out, 2), random(2, config.d_in))
        for name in config.weight_names
    }
    return Delta.of(config, changes)
