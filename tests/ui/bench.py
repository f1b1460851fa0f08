"""A tiny model in a folder, with the second moments that editing it needs."""

from __future__ import annotations

from pathlib import Path

from collabedit.covariance import collect
from collabedit.covariance.text_corpus import file_corpus
from collabedit.editors import default_hyperparameters
from collabedit.models import load_model
from collabedit.ui.logic import Draft, Jobs, Workbench
from tests.conftest import CORPUS, make_model, save_model

FACT = Draft("The capital of {} is", "France", "Rome", "Italy")


def model_folder(folder: Path) -> Path:
    """Write ``model`` and ``covariance.safetensors``; returns the folder."""
    save_model(make_model("llama"), folder / "model")
    texts = folder / "texts.txt"
    texts.write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    model = load_model(folder / "model")
    layers = default_hyperparameters(model.name, model.structure, "MEMIT").hyperparameters.layers
    corpus = file_corpus([texts], seed=0)
    collect(model, layers, corpus, tokens=1000, out=folder / "covariance.safetensors")
    return folder


def workbench(folder: Path) -> Workbench:
    """A workbench with this model and one fact."""
    bench = Workbench(Jobs())
    covariance = str(folder / "covariance.safetensors")
    bench.change(model=str(folder / "model"), covariance=covariance, retry=False)
    bench.drafts = [Draft(FACT.prompt, FACT.subject, FACT.target, FACT.others)]
    return bench
