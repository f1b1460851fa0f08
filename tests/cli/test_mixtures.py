"""A mixture of experts by files: two parties, a coordinator, and users of the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from collabedit.algebra import relative_distance
from collabedit.messages import Delta
from tests.cli.commands import collabedit, fails
from tests.cli.test_by_files import write_requests
from tests.conftest import CORPUS, EXACT, make_model, save_model

#: Each party finds its targets in its own batches, and the pooled edit in others.
pytestmark = pytest.mark.usefixtures("exact_module")

SETTINGS = {"layers": [1, 2], "target_steps": 3, "target_learning_rate": 0.2, "prior_weight": 5}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its covariance, settings, contexts and two parties' requests."""
    folder = tmp_path_factory.mktemp("mixture")
    save_model(make_model("qwen3_moe"), folder / "model")
    (folder / "corpus.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    (folder / "hparams.json").write_text(json.dumps(SETTINGS))
    (folder / "contexts.json").write_text(json.dumps([["{}"], ["It is so. {}"]]))
    for name, (start, end) in {"a": (0, 1), "b": (1, 4), "all": (0, 4)}.items():
        write_requests(folder / f"{name}.jsonl", start, end)
    options = ("--layers", "1-2", "--corpus", folder / "corpus.txt", "--tokens", 1500)
    model = ("--model", folder / "model")
    collabedit("stats", "collect", *model, *options, "-o", folder / "cov.safetensors")
    return folder


def merged(work: Path, schedule: str, parties: str, *options: object) -> Delta:
    """The delta of a round of some parties, with each exchange by files."""
    opening = ("--hparams", work / "hparams.json", "--contexts", work / "contexts.json")
    config = work / f"{schedule}-{parties}.json"
    model = ("--model", work / "model")
    collabedit("round", "new", *model, "--schedule", schedule, *opening, "-o", config, *options)
    delta = work / f"{schedule}-{parties}.safetensors"
    already: tuple[object, ...] = ()
    for _ in range(1 if schedule == "one-shot" else 2):
        files = []
        for name in parties.split("-"):
            files.append(work / f"{schedule}-{parties}.{name}.safetensors")
            own = ("--round", config, "--requests", work / f"{name}.jsonl", "--party", name)
            collabedit("contribute", *own, *already, "-o", files[-1])
        covariance = ("--covariance", work / "cov.safetensors")
        collabedit("merge", *files, "--round", config, *covariance, *already, "-o", delta)
        already = ("--delta", delta)
    return Delta.load(delta)


@pytest.mark.parametrize("schedule", ["one-shot", "layerwise"])
def test_two_parties_match_one_with_all_edits(work: Path, schedule: str) -> None:
    together, pooled = merged(work, schedule, "a-b"), merged(work, schedule, "all")
    together.require_complete()
    assert len(together.changes) == 2
    for name, change in pooled.changes.items():
        assert relative_distance(together.changes[name], change) < EXACT


def test_the_delta_is_applied_saved_and_reverted(work: Path) -> None:
    merged(work, "one-shot", "a-b")
    delta, edited = work / "one-shot-a-b.safetensors", work / "edited"
    collabedit("apply", delta, "-o", edited, "--requests", work / "all.jsonl")
    hf = transformers.AutoModelForCausalLM.from_pretrained(edited, dtype="auto").eval()
    hf.set_experts_implementation("eager")
    loaded = make_model("qwen3_moe")
    loaded.apply_(Delta.load(delta).changes)
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        assert torch.allclose(hf(ids).logits, loaded.hf(ids).logits, rtol=EXACT, atol=EXACT)
    assert "8 weights were restored" in collabedit("revert", edited, "-o", work / "back")
    back, model = (load_file(work / name / "model.safetensors") for name in ("back", "model"))
    assert all(torch.equal(back[key], model[key]) for key in model)


def test_experts_are_shown(work: Path) -> None:
    structure = json.loads(collabedit("models", "show", work / "model", "--json"))["structure"]
    assert (structure["experts"], structure["routed"], structure["mlp_size"]) == (4, 2, 48)
    assert "experts.down_proj" in collabedit("stats", "show", work / "cov.safetensors")


def test_a_mixture_is_edited_alone(work: Path) -> None:
    edits = ("--requests", work / "a.jsonl", "--hparams", work / "hparams.json", "--no-retry")
    covariance = ("--covariance", work / "cov.safetensors")
    model = ("--model", work / "model")
    said = collabedit("edit", *model, *edits, *covariance, "-o", work / "alone")
    assert "took" in said
    assert (work / "alone" / "collabedit.undo").is_file()


def test_unsupported_commands_get_one_line(work: Path) -> None:
    merged(work, "one-shot", "a-b")
    delta = work / "one-shot-a-b.safetensors"
    for to, out in (("lora", "adapter"), ("gguf", "x.gguf")):
        said = fails("export", delta, "--to", to, "-o", work / out)
        assert "is a mixture of experts" in said
    model = ("--model", work / "model", "--requests", work / "a.jsonl")
    said = fails("edit", *model, "--editor", "UltraEdit", "-o", work / "ultra")
    assert "UltraEdit normalises the features of all tokens alike" in said
    npz = f"{work / 'x.npz'}:1"
    said = fails("stats", "import", npz, *model[:2], "-o", work / "imported.safetensors")
    assert "mixture of experts" in said
