"""Second moments made by other programs."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from collabedit.errors import CovarianceError, InputError
from collabedit.files import utc_now
from collabedit.messages.covariance import Covariance, malformed_moment
from collabedit.models import LanguageModel

__all__ = ["import_npz", "layer_in_file_name"]

#: The members of an ``.npz`` archive that are read.
_NPZ_MEMBERS = ("mom2.mom2", "mom2.count")
#: Room for the header of an array in an ``.npz`` file.
_NPY_HEADER = 2**16
#: What reading a malformed archive or array can raise.
_NPZ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    SyntaxError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    tokenize.TokenError,  # from a header that numpy takes for one of Python 2
    zipfile.BadZipFile,
    zlib.error,
)


def import_npz(files: Mapping[int, Path], model: LanguageModel) -> Covariance:
    """Import the ``.npz`` statistics of ROME and MEMIT, one file a layer.

    They hold the *sum* of ``k k^T`` (``mom2.mom2``) and the number of tokens (``mom2.count``), as
    ``SecondMoment`` in the ``util/runningstats.py`` of kmeng01/rome writes them. They name no
    model, so the user vouches that they belong to this one.

    Args:
        files: the file of each layer.
        model: the model that they were collected on.

    Raises:
        InputError: when a file cannot be read.
        CovarianceError: when a file has no such statistics or ones of another shape, or when the
            model is a mixture of experts.
        ModelError: when a layer does not exist.
    """
    if not files:
        raise CovarianceError("there is no file to import")
    if model.structure.experts is not None:
        raise CovarianceError(
            f"{model.name} is a mixture of experts, whose second moments such files do not hold; "
            "collect them with: collabedit stats collect"
        )
    names = dict(zip(files, model.weight_names(list(files)), strict=True))
    size = model.structure.mlp_size
    moments: dict[str, Tensor] = {}
    counts: dict[Path, int] = {}
    for layer, path in files.items():
        total, counts[path] = _read_npz(path, size)
        if total.shape != (size, size):
            raise CovarianceError(
                f"{path}: its matrix is {list(total.shape)}, but {model.name} needs {[size, size]}"
            )
        moments[names[layer]] = total / counts[path]
        if problem := malformed_moment(moments[names[layer]]):
            raise CovarianceError(f"{path}: its matrix {problem}")
    if len(set(counts.values())) > 1:
        sizes = ", ".join(f"{path.name}: {count:,}" for path, count in counts.items())
        raise CovarianceError(
            f"the files are not of the same tokens ({sizes}); import them separately"
        )
    return Covariance(
        second_moments=moments,
        samples=next(iter(counts.values())),
        corpus="imported: " + ", ".join(path.name for path in files.values()),
        model=model.name,
        model_sha256=model.fingerprint(list(moments)),
        sampling_error={},
        created=utc_now(),
    )


def layer_in_file_name(path: Path, model: LanguageModel) -> int:
    """The layer named in ROME's file names, ``transformer.h.13.mlp.c_proj_float32_mom2_100.npz``.

    Raises:
        InputError: when the name does not begin with a down-projection of the model.
    """
    for layer in range(model.structure.n_layers):
        if path.name.startswith(f"{model.structure.projection_path(layer)}_"):
            return layer
    raise InputError(f"{path}: its name does not say the layer; give it as {path}:LAYER")


def _read_npz(path: Path, size: int) -> tuple[Tensor, int]:
    """The sum of ``k k^T``, of width ``size``, and the number of tokens of an ``.npz`` file."""
    import numpy

    _check_npz_sizes(path, size)
    try:
        with numpy.load(path, allow_pickle=False) as stored:
            total, count = stored["mom2.mom2"], stored["mom2.count"]
    except KeyError:
        raise CovarianceError(
            f"{path}: it has no 'mom2.mom2' and 'mom2.count', as ROME's and MEMIT's files have"
        ) from None
    except _NPZ_ERRORS as error:
        raise _not_npz(path, error) from None
    if count.size != 1 or count.dtype.kind not in "iuf" or not 0 < count.item() < 2**62:
        raise CovarianceError(f"{path}: its number of samples is not a positive number")
    if total.dtype.kind != "f":
        raise CovarianceError(f"{path}: its matrix has type {total.dtype}, not a float type")
    return torch.from_numpy(total.astype("float64")), int(count.item())


def _check_npz_sizes(path: Path, size: int) -> None:
    """Before reading a file, refuse it if it would unpack to more than a matrix of width ``size``.

    Members are bounded by the sizes in the archive, which zipfile enforces, and arrays by their own
    headers, since numpy allocates the memory that a header announces.
    """
    if not path.is_file():
        raise InputError(f"cannot read the statistics {path}: no such file")
    most = 8 * size**2 + _NPY_HEADER
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.removesuffix(".npy") not in _NPZ_MEMBERS:
                    continue  # numpy reads only what is asked for
                announced = member.file_size
                if announced <= most:
                    announced = _announced_bytes(archive, member)
                if announced > most:
                    raise CovarianceError(
                        f"{path}: {member.filename} unpacks to {announced / 1e6:,.1f} MB; a matrix "
                        f"of width {size} takes at most {most / 1e6:,.1f} MB"
                    )
    except _NPZ_ERRORS as error:
        raise _not_npz(path, error) from None


def _announced_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes of the array in a member, according to its header."""
    from numpy.lib import format as npy

    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    return math.prod(shape) * dtype.itemsize


def _not_npz(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: not an .npz file of plain arrays ({reason})")
