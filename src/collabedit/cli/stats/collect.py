"""``collabedit stats collect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import (
    DeviceOption,
    DtypeOption,
    MemoryOption,
    ModelOption,
    SeedOption,
    TrustOption,
    WorkersOption,
    read_bytes,
    read_numbers,
)
from collabedit.cli.stats.options import OutOption, default_out
from collabedit.errors import InputError

if TYPE_CHECKING:
    from collabedit.covariance import Corpus
    from collabedit.models import LanguageModel

__all__ = ["collect"]


def collect(
    model: ModelOption,
    layers: Annotated[
        str | None,
        typer.Option(help="As in 5,6,7 or 5-9; by default those that editing changes."),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            help="A text file, or a .jsonl file with a 'text' in each line (repeat for several); "
            "hub:NAME or hub:NAME:CONFIGURATION for a data set of the Hugging Face Hub; "
            "self for text that the model writes itself.",
            show_default="self",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many; by default 100,000 of a text or 10,000 of self, and at least ten for "
            "each input of the MLP. Four times as many halve the sampling error.",
        ),
    ] = None,
    seed: SeedOption = default_of("seed"),
    max_length: Annotated[int, typer.Option(min=8, help="Tokens of a text window at most.")] = 512,
    dtype: DtypeOption = default_of("dtype"),
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    memory_budget: MemoryOption = None,
    workers: WorkersOption = None,
    out: OutOption = None,
) -> None:
    """Collect second moments over a text, all layers in one pass if the memory budget allows.

    Use text like that which the model was trained on, and at least ten times as many tokens as
    the MLP has inputs. If it is interrupted, the same command continues.
    """
    from collabedit.cli.stats.table import print_covariance
    from collabedit.covariance import collect as collect_moments
    from collabedit.covariance import open_corpus
    from collabedit.covariance.sizing import default_tokens
    from collabedit.workers import ModelSource, check_workers, open_model_workers

    check_workers(workers)
    source = open_corpus(corpus or ["self"], seed)
    target = out or default_out(model)
    place = ModelSource(model, dtype, device, read_bytes(memory_budget), trust_remote_code)
    language_model = place.load()
    chosen = _chosen_layers(language_model, layers)
    wanted = tokens or default_tokens(language_model, source)
    _say_cost(language_model, chosen, source, wanted)
    with open_model_workers(workers, place, language_model) as share:
        covariance = collect_moments(
            language_model,
            chosen,
            source,
            tokens=wanted,
            max_length=max_length,
            out=target,
            share=share,
        )
    print_covariance(covariance, target)


def _chosen_layers(model: LanguageModel, layers: str | None) -> tuple[int, ...]:
    from collabedit.editors import default_hyperparameters

    if layers is None:
        preset = default_hyperparameters(model.name, model.structure)
        return tuple(preset.hyperparameters.layers)
    chosen = tuple(sorted(set(read_numbers(layers, "--layers"))))
    if not chosen:
        raise InputError(f"--layers: {layers!r} names no layer; write it like 5,6,7 or 5-9")
    return chosen


def _say_cost(model: LanguageModel, layers: tuple[int, ...], corpus: Corpus, tokens: int) -> None:
    from collabedit.covariance.sizing import expected_seconds, layers_at_once, memory_needed
    from collabedit.progress import duration, say

    size = model.structure.mlp_size
    together = layers_at_once(model, layers)
    passes = "" if together == len(layers) else f"{together} at a time, "
    seconds = expected_seconds(model, corpus, tokens, layers)
    say(
        f"{tokens:,} tokens of {corpus.description}; {len(layers)} layers "
        f"({', '.join(map(str, layers))}) of {size:,} inputs: {passes}"
        f"{memory_needed(model, layers[:together]) / 1e6:,.0f} MB of memory for the matrices, "
        f"{len(layers) * size**2 * 8 / 1e6:,.0f} MB on disk, about {duration(seconds)} a pass"
    )
