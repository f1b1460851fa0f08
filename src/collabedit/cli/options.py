"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.editors.registry import DEFAULT_EDITOR, editors, resolve_editor
from collabedit.errors import InputError

if TYPE_CHECKING:
    from collabedit.covariance.collector import Share
    from collabedit.editors import Hyperparameters
    from collabedit.evaluation.outcomes import Outcomes
    from collabedit.merging import AfterMergeStep
    from collabedit.messages import Covariance
    from collabedit.models import LanguageModel

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="A built-in name, a directory, a .gguf file, or a Hub id."),
]
EditorOption = Annotated[
    str,
    typer.Option(
        "--editor",
        "-E",
        help=f"{', '.join(each.name for each in editors())}, in any case.",
    ),
]
ScheduleOption = Annotated[
    str,
    typer.Option(
        help="'layerwise' measures the residual again for each layer (best edits, one exchange per "
        "layer); 'one-shot' takes every residual from the unedited model (a single exchange)."
    ),
]
CovarianceOption = Annotated[
    Path | None,
    typer.Option(
        "--covariance",
        "-C",
        help="File of 'collabedit stats collect'. Without it, statistics of text that the model "
        "itself writes are collected once and kept in the cache.",
    ),
]
HparamsOption = Annotated[
    Path | None,
    typer.Option(
        "--hparams",
        help="Hyper-parameters as JSON: ours, or a file that ROME, MEMIT, AlphaEdit or CollabEdit "
        "publish.",
    ),
]
DtypeOption = Annotated[str, typer.Option(help="Type of the weights: float32, bfloat16, ...")]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, ...; by default the GPU if there is one. 'auto' spreads the model over "
        "all GPUs, main memory and disk."
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that comes with the model. Read it first. Without this, such models "
        "are refused.",
    ),
]
SkipKnownOption = Annotated[
    float | None,
    typer.Option(
        help="Skip edits whose new object the unedited model already gives at least this mean "
        "probability per token, such as 0.9."
    ),
]
RosterOption = Annotated[
    Path | None,
    typer.Option(
        help="Secure aggregation: the parties' public keys as you know them; a round with others "
        "is refused."
    ),
]
AfterMergeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--after-merge",
        help="What is done to the merged change: RECT, PRUNE or SPHERE, with options such as "
        "SPHERE:energy=0.5,strength=0.8; repeatable, in this order (docs/reference/editors.md).",
    ),
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Do not keep targets between exchanges.")
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        help="Share the work between so many processes, or the actors of a Ray cluster: ray or "
        "ray://HOST:PORT. Each takes OMP_NUM_THREADS threads, by default one. The results are the "
        "same (docs/how-to/workers.md)."
    ),
]
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        help="Memory that one stage may use beyond the model's weights, such as 2GB; by default, "
        "whatever is fastest.",
    ),
]
RoundOption = Annotated[
    Path, typer.Option("--round", help="The round.json that all parties share.")
]
SoFarOption = Annotated[
    Path | None,
    typer.Option("--delta", help="Layerwise rounds: the delta of the layers merged so far."),
]
LambdaOption = Annotated[
    float | None, typer.Option("--lambda", help="Weight of the prior; the preset's by default.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of all random sampling.")]
SkipBadOption = Annotated[
    bool,
    typer.Option("--skip-bad", help="Skip unusable requests, and say how many there were."),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Exit with status 1 unless every edit took.")
]
RetryOption = Annotated[
    bool,
    typer.Option(help="Give edits that did not take one more pass, with more steps."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a saved model there; nothing else is replaced.")
]


def own_betas() -> str:
    """Each editor's own weight, the usual one first."""
    usual = resolve_editor(DEFAULT_EDITOR).beta
    others = [f"{each.name} {each.beta:g}" for each in editors() if each.beta != usual]
    return "; ".join([f"{usual:g}", *others])


def read_hyperparameters(
    model: LanguageModel, hparams: Path | None, prior_weight: float | None, editor: str
) -> Hyperparameters:
    """Settings from a file, or the model's defaults for an editor, with ``lambda`` if given."""
    from collabedit.editors import Hyperparameters, default_hyperparameters

    if hparams is not None:
        settings = Hyperparameters.from_file(hparams)
    else:
        settings = default_hyperparameters(model.name, model.structure, editor).hyperparameters
    return settings.with_changes(prior_weight=prior_weight)


def read_covariance(
    path: Path | None,
    model: LanguageModel,
    layers: tuple[int, ...],
    seed: int,
    share: Share | None = None,
) -> Covariance:
    """The covariance from a file, or the default one, collected once and cached."""
    from collabedit.covariance import default_covariance
    from collabedit.messages import Covariance

    if path is not None:
        return Covariance.load(path)
    return default_covariance(model, layers, seed, share=share)


def read_numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers from ``8``, ``8,5,3`` or ``5-9``.

    Raises:
        InputError: when the text is none of these.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(f"{option}: cannot read {text!r}; write it like 8, 8,5,3 or 5-9")
        numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    return tuple(numbers)


def read_decimals(text: str, option: str) -> tuple[float, ...]:
    """Numbers from ``0.5`` or ``0,0.5,10``.

    Raises:
        InputError: when the text is neither, or a number is below zero.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 <= number < float("inf") for number in numbers):
        raise InputError(f"{option}: cannot read {text!r}; write it like 0.5 or 0,0.5,10")
    return numbers


def read_steps(texts: list[str] | None) -> tuple[AfterMergeStep, ...]:
    """Steps after merging, as ``--after-merge`` gives them.

    Raises:
        UnknownNameError: when there is no such step.
        InputError: when a text cannot be read, or a step has no such option.
    """
    from collabedit.merging import AfterMergeStep

    return tuple(AfterMergeStep.parse(text) for text in texts or ())


def read_bytes(text: str | None) -> int | None:
    """Bytes from ``2GB``, ``500 MB`` or a plain number; ``None`` where nothing was given.

    Raises:
        InputError: when the text is no such size.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    size = int(float(found.group(1)) * _UNITS[found.group(2).upper()]) if found else 0
    if size < 1:
        raise InputError(f"--memory-budget: cannot read {text!r}; write it like 2GB or 500MB")
    return size


def require_all_took(outcomes: Outcomes, strict: bool) -> None:
    """With ``--strict``, end with status 1 unless every edit took."""
    if strict and outcomes.failed:
        raise typer.Exit(1)


def spread(layers: tuple[int, ...]) -> str:
    """Layers as people write them: ``5-9``, or ``5``."""
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])
