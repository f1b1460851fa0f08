"""``collabedit stats import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.options import ModelOption, TrustOption
from collabedit.cli.stats.options import OutOption, default_out
from collabedit.errors import InputError

if TYPE_CHECKING:
    from collabedit.models import LanguageModel

__all__ = ["import_"]


def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:LAYER]...",
            help="One .npz file per layer; the layer is taken from names like "
            "transformer.h.13.mlp.c_proj_float32_mom2_100000.npz.",
        ),
    ],
    model: ModelOption,
    out: OutOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Import the .npz statistics of ROME and MEMIT.

    These files do not say which model they describe; make sure it is the one you name.
    """
    from collabedit.cli.stats.table import print_covariance
    from collabedit.covariance import import_npz
    from collabedit.models import load_model

    language_model = load_model(model, device="cpu", trust_remote_code=trust_remote_code)
    target = out or default_out(model)
    covariance = import_npz(_files_by_layer(files, language_model), language_model)
    covariance.save(target)
    print_covariance(covariance, target)


def _files_by_layer(arguments: list[str], model: LanguageModel) -> dict[int, Path]:
    from collabedit.covariance import layer_in_file_name

    by_layer: dict[int, Path] = {}
    for argument in arguments:
        name, _, number = argument.rpartition(":")
        if name and number.isdecimal():
            layer, path = int(number), Path(name)
        else:
            path = Path(argument)
            layer = layer_in_file_name(path, model)
        if layer in by_layer:
            raise InputError(
                f"layer {layer} is given twice, as {by_layer[layer]} and {path}; give it once"
            )
        by_layer[layer] = path
    return dict(sorted(by_layer.items()))
