"""``collabedit stats``: the second moments that keep an edit from spoiling the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.options import (
    DeviceOption,
    DtypeOption,
    MemoryOption,
    ModelOption,
    SeedOption,
    TrustOption,
    read_bytes,
    read_numbers,
)
from collabedit.errors import InputError

if TYPE_CHECKING:
    from collabedit.messages import Covariance
    from collabedit.models import LanguageModel

app = typer.Typer(
    no_args_is_help=True,
    help="Collect, show and import covariance files: the second moments of what the "
    "edited weights read in ordinary text.",
)

OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="File to write; MODEL-covariance.safetensors by default."),
]


@app.command()
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
            help="How many; by default 100,000 of a text or 20,000 of self, and ten for each input "
            "of the MLP at least. Four times as many halve the sampling error.",
        ),
    ] = None,
    seed: SeedOption = 0,
    max_length: Annotated[int, typer.Option(min=8, help="Tokens of a text window at most.")] = 512,
    dtype: DtypeOption = "float32",
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    memory_budget: MemoryOption = None,
    out: OutOption = None,
) -> None:
    """Collect second moments over a text, all layers in one pass if the memory budget allows.

    Use text like the model was trained on, and at least ten times as many tokens as the MLP has
    inputs. Interrupted, the same command continues where it was.
    """
    from collabedit.covariance import collect as collect_moments
    from collabedit.covariance import open_corpus
    from collabedit.covariance.collect import default_tokens
    from collabedit.models import load_model

    source = open_corpus(corpus or ["self"], seed)
    language_model = load_model(
        model,
        dtype=dtype,
        device=device,
        memory_budget=read_bytes(memory_budget),
        trust_remote_code=trust_remote_code,
    )
    chosen = _chosen_layers(language_model, layers)
    wanted = tokens or default_tokens(language_model, source)
    _tell_cost(language_model, chosen, f"{wanted:,} tokens of {source.description}")
    target = out or _default_out(model)
    covariance = collect_moments(
        language_model, chosen, source, tokens=wanted, max_length=max_length, out=target
    )
    _print(covariance, target)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A covariance file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a covariance file holds, and how good it is."""
    from collabedit.messages import Covariance

    covariance = Covariance.load(file)
    if as_json:
        print(json.dumps({**_facts(covariance), "weights": _rows(covariance)}, indent=2))
        return
    _print(covariance, file)


@app.command("import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:LAYER]...",
            help="One .npz file a layer; the layer is read off names like "
            "transformer.h.13.mlp.c_proj_float32_mom2_100000.npz.",
        ),
    ],
    model: ModelOption,
    out: OutOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Import the .npz statistics of ROME and MEMIT.

    These files do not say which model they are of; take care that it is the one you name.
    """
    from collabedit.covariance import import_npz
    from collabedit.models import load_model

    language_model = load_model(model, device="cpu", trust_remote_code=trust_remote_code)
    target = out or _default_out(model)
    covariance = import_npz(_files_by_layer(files, language_model), language_model)
    covariance.save(target)
    _print(covariance, target)


def _chosen_layers(model: LanguageModel, layers: str | None) -> tuple[int, ...]:
    from collabedit.editors import default_hyperparameters

    if layers is None:
        preset = default_hyperparameters(model.name, model.structure)
        return tuple(preset.hyperparameters.layers)
    chosen = tuple(sorted(set(read_numbers(layers, "--layers"))))
    if not chosen:
        raise InputError(f"--layers: {layers!r} names no layer; write it like 5,6,7 or 5-9")
    return chosen


def _tell_cost(model: LanguageModel, layers: tuple[int, ...], text: str) -> None:
    from collabedit.covariance.collect import layers_at_once, memory_needed
    from collabedit.progress import say

    size = model.structure.mlp_size
    together = layers_at_once(model, layers)
    passes = "" if together == len(layers) else f"{together} at a time, "
    say(
        f"{text}; {len(layers)} layers ({', '.join(map(str, layers))}) of {size:,} inputs: {passes}"
        f"{memory_needed(model, layers[:together]) / 1e6:,.0f} MB of memory for the matrices, "
        f"{len(layers) * size**2 * 8 / 1e6:,.0f} MB on disk"
    )


def _default_out(model: str) -> Path:
    return Path(f"{Path(model).name.removesuffix('.gguf')}-covariance.safetensors")


def _files_by_layer(arguments: list[str], model: LanguageModel) -> dict[int, Path]:
    from collabedit.covariance import layer_in_file_name

    found: dict[int, Path] = {}
    for argument in arguments:
        name, _, number = argument.rpartition(":")
        if name and number.isdecimal():
            layer, path = int(number), Path(name)
        else:
            path = Path(argument)
            layer = layer_in_file_name(path, model)
        if layer in found:
            raise InputError(f"layer {layer} is given twice: {found[layer]} and {path}")
        found[layer] = path
    return dict(sorted(found.items()))


def _facts(covariance: Covariance) -> dict[str, str | int]:
    return {
        "model": covariance.model,
        "corpus": covariance.corpus,
        "samples": covariance.samples,
        "created": covariance.created,
        "collabedit": covariance.collabedit,
    }


def _rows(covariance: Covariance) -> dict[str, dict[str, float | int | None]]:
    """What the table says of each weight; ``None`` where it is infinite or not known."""
    import math

    from collabedit.algebra import condition_number
    from collabedit.progress import progress

    rows: dict[str, dict[str, float | int | None]] = {}
    moments = covariance.second_moments
    with progress("Checking the matrices", len(moments), "matrices") as bar:
        for name, moment in moments.items():
            condition = condition_number(moment)
            rows[name] = {
                "size": len(moment),
                "trace": float(moment.trace()),
                "condition": condition if math.isfinite(condition) else None,
                "sampling_error": covariance.sampling_error.get(name),
            }
            bar.advance()
    return rows


def _print(covariance: Covariance, path: Path) -> None:
    from rich.table import Table

    from collabedit.reporting.tables import console

    table = Table("weight", "samples", "inputs", "trace", "condition", "sampling error")
    for name, row in _rows(covariance).items():
        condition, error = row["condition"], row["sampling_error"]
        table.add_row(
            name,
            f"{covariance.samples:,}",
            f"{row['size']:,}",
            f"{row['trace']:.4g}",
            "singular" if condition is None else f"{condition:.1e}",
            "unknown" if error is None else f"{100 * error:.1f} %",
        )
    out = console()
    for key, value in _facts(covariance).items():
        out.print(f"{key}: {value}", highlight=False, markup=False)
    out.print(table)
    out.print(f"file: {path}", highlight=False, markup=False, soft_wrap=True)
