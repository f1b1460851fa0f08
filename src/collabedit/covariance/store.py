"""Second moments in memory and on disk."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collabedit import __version__
from collabedit.algebra import Prior
from collabedit.covariance.factor_cache import null_space_prior_of, prior_of
from collabedit.errors import CovarianceError, InputError
from collabedit.files import StoredTensors, save_tensors, tensor_metadata, utc_now
from collabedit.models import LanguageModel

__all__ = ["Covariance", "condition_number", "import_npz", "layer_in_file_name", "merge"]

FORMAT = "collabedit.covariance"
VERSION = 1
_SUFFIX = "/second_moment"
#: Rows of a matrix that are checked together.
_PANEL = 1024
#: Asymmetry allowed, as a share of the largest entry: float32 sums of other programs have some.
_ASYMMETRY = 1e-5
#: What is read of an ``.npz`` file, by its name in the archive.
_NPZ_MEMBERS = ("mom2.mom2", "mom2.count")
#: Room for the header of an array in an ``.npz`` file.
_NPY_HEADER = 2**16
#: What reading a malformed archive or array raises.
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
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class Covariance:
    """Uncentred second moments ``C = E[k k^T]`` of the inputs of down-projections.

    Attributes:
        second_moments: ``C [d_in, d_in]`` by weight name, float64, symmetric. Those of a file stay
            there, and are read and checked at each use.
        samples: number of tokens averaged over.
        corpus: what the text was, for people; no part of the text itself.
        model: what the user called the model.
        model_sha256: SHA-256 by weight name of the weights it was collected on.
        sampling_error: by weight name, the standard error of ``C`` relative to its Frobenius norm;
            weights for which it is not known are absent.
        created: date and time, ISO 8601.
        collabedit: version that made it.
    """

    second_moments: Mapping[str, Tensor]
    samples: int
    corpus: str
    model: str
    model_sha256: Mapping[str, str]
    sampling_error: Mapping[str, float]
    created: str
    collabedit: str = __version__

    def save(self, path: Path) -> None:
        """Write a covariance file atomically.

        Raises:
            InputError: when it cannot be written.
        """
        tensors = {f"{name}{_SUFFIX}": matrix for name, matrix in self.second_moments.items()}
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "samples": self.samples,
            "corpus": self.corpus,
            "model": self.model,
            "model_sha256": dict(self.model_sha256),
            "sampling_error": dict(self.sampling_error),
            "created": self.created,
            "collabedit": self.collabedit,
        }
        save_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path) -> Covariance:
        """Read a covariance file, which may come from anyone.

        Raises:
            InputError: when the file is missing or not safetensors.
            CovarianceError: when it is not a covariance file or its content makes no sense.
        """
        metadata = tensor_metadata(path, "covariance file")
        tensors = StoredTensors(path, "covariance file")
        try:
            return _parse(tensors, metadata)
        except _MalformedError as problem:
            raise CovarianceError(f"{path}: {problem}") from None

    def check_model(self, fingerprint: Mapping[str, str]) -> None:
        """Make sure that these are the second moments of the given weights.

        Args:
            fingerprint: SHA-256 by weight name (:meth:`LanguageModel.fingerprint`).

        Raises:
            CovarianceError: when a weight is absent here, or was another one.
        """
        absent = [name for name in fingerprint if name not in self.second_moments]
        if absent:
            raise CovarianceError(
                f"the covariance has layers {_layers(self.second_moments)}, but layers "
                f"{_layers(absent)} are needed too; collect them all with: collabedit stats "
                f"collect --model {self.model} --layers {_layers(fingerprint)}"
            )
        for name, sha256 in fingerprint.items():
            if self.model_sha256[name] != sha256:
                raise CovarianceError(
                    f"the covariance was collected on another model: its {name} (of {self.model}) "
                    "is not the one in use; collect it again with: collabedit stats collect"
                )

    def prior(self, weight: str, lambda_: float) -> Prior:
        """MEMIT's prior ``A0 = lambda C`` of one weight.

        Raises:
            CovarianceError: when there is no such weight here, or its ``C`` is not usable.
        """
        return prior_of(self._second_moment(weight), lambda_)

    def null_space_prior(self, weight: str, threshold: float, lambda_2: float) -> Prior:
        """AlphaEdit's prior of one weight, ``lambda_2 I`` on the near-null space of ``C``.

        Raises:
            CovarianceError: when there is no such weight here, or no eigenvalue of its ``C`` is
                below the threshold.
        """
        try:
            return null_space_prior_of(self._second_moment(weight), threshold, lambda_2)
        except CovarianceError as error:
            raise CovarianceError(f"{weight}: {error}") from None

    def _second_moment(self, weight: str) -> Tensor:
        if weight not in self.second_moments:
            raise CovarianceError(
                f"the covariance has no {weight}; it has layers {_layers(self.second_moments)}"
            )
        return self.second_moments[weight]


def merge(covariances: Sequence[Covariance]) -> Covariance:
    """Pool second moments of several texts on one model, each weighted by its samples.

    The parts count as independent, so with shares ``w_i`` the standard error is the root of
    ``sum_i w_i^2 SE_i^2``; it is known only where that of every part is.

    Raises:
        CovarianceError: when there are none, or when they are not of the same weights.
    """
    if not covariances:
        raise CovarianceError("there is no covariance to merge")
    first = covariances[0]
    for other in covariances[1:]:
        if dict(other.model_sha256) != dict(first.model_sha256):
            raise CovarianceError(
                f"covariances of other weights cannot be merged ({first.model}, layers "
                f"{_layers(first.second_moments)}; {other.model}, layers "
                f"{_layers(other.second_moments)})"
            )
    samples = sum(part.samples for part in covariances)
    moments: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for name in first.second_moments:
        shares = [(part.samples / samples, part) for part in covariances]
        pooled = torch.zeros_like(first.second_moments[name])
        for share, part in shares:
            pooled.add_(part.second_moments[name], alpha=share)
        moments[name] = pooled
        if all(name in part.sampling_error for part in covariances):
            variance = sum(
                (share * part.sampling_error[name] * float(part.second_moments[name].norm())) ** 2
                for share, part in shares
            )
            errors[name] = math.sqrt(variance) / float(pooled.norm())
    return Covariance(
        second_moments=moments,
        samples=samples,
        corpus=" + ".join(part.corpus for part in covariances),
        model=first.model,
        model_sha256=first.model_sha256,
        sampling_error=errors,
        created=utc_now(),
    )


def import_npz(files: Mapping[int, Path], model: LanguageModel) -> Covariance:
    """Import the ``.npz`` statistics of ROME and MEMIT, one file a layer.

    They hold the *sum* of ``k k^T`` (``mom2.mom2``) and the number of tokens (``mom2.count``), as
    ``SecondMoment`` in the ``util/runningstats.py`` of kmeng01/rome writes them. They name no
    model: that they are of this one is the user's word.

    Args:
        files: file of each layer.
        model: the model that they were collected on.

    Raises:
        InputError: when a file cannot be read.
        CovarianceError: when a file has no such statistics, or those of another shape.
        ModelError: when a layer does not exist.
    """
    if not files:
        raise CovarianceError("there is no file to import")
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
        if problem := _problem(moments[names[layer]]):
            raise CovarianceError(f"{path}: its matrix {problem}")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{path.name}: {count:,}" for path, count in counts.items())
        raise CovarianceError(f"the files are not of the same tokens ({found}); import them apart")
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
    """The layer that ROME's file names say, ``transformer.h.13.mlp.c_proj_float32_mom2_100.npz``.

    Raises:
        InputError: when the name does not begin with a down-projection of the model.
    """
    for layer in range(model.structure.n_layers):
        if path.name.startswith(f"{model.structure.projection_path(layer)}_"):
            return layer
    raise InputError(f"{path}: its name does not say the layer; give it as {path}:LAYER")


def condition_number(matrix: Tensor) -> float:
    """Estimate of the ratio of the extreme eigenvalues, infinite where ``matrix`` is singular.

    Power iteration from both ends: a lower bound, close when the extremes stand apart.

    Args:
        matrix: ``[n, n]``, symmetric, float64.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() != 0:
        return math.inf
    generator = torch.Generator().manual_seed(0)
    high = torch.randn(len(matrix), 1, dtype=matrix.dtype, generator=generator)
    low = high.clone()
    for _ in range(50):
        high = matrix @ (high / high.norm())
        low = torch.cholesky_solve(low / low.norm(), factor)
    return float(high.norm() * low.norm())


class _MalformedError(ValueError):
    """What is wrong with the content of a file."""


def _layers(names: Mapping[str, Any] | Sequence[str]) -> str:
    numbers = [re.search(r"\.(\d+)\.", name) for name in names]
    return ",".join(found.group(1) if found else "?" for found in numbers)


def _parse(tensors: StoredTensors, metadata: Mapping[str, Any]) -> Covariance:
    if metadata.get("format") != FORMAT:
        raise _MalformedError(f"not a covariance file (its format is {metadata.get('format')!r})")
    if metadata.get("version") != VERSION:
        raise _MalformedError(
            f"covariance files of version {metadata.get('version')!r} are not known; "
            "a newer collabedit may read it"
        )
    if not tensors:
        raise _MalformedError("there is no matrix in it")
    strange = [name for name in tensors if not name.endswith(_SUFFIX) or name == _SUFFIX]
    if strange:
        raise _MalformedError(f"it has the unknown tensor {strange[0]!r}")
    moments = _StoredMoments(tensors)
    for name in moments:
        moments[name]  # checked now, read again when it is needed
    return Covariance(
        second_moments=moments,
        samples=_samples(metadata.get("samples")),
        model_sha256=_hashes(metadata.get("model_sha256"), moments),
        sampling_error=_errors(metadata.get("sampling_error", {}), moments),
        **{key: _text(metadata, key) for key in ("corpus", "model", "created", "collabedit")},
    )


class _StoredMoments(Mapping[str, Tensor]):
    """The matrices of a covariance file by weight name."""

    def __init__(self, tensors: StoredTensors) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        matrix = self._tensors[f"{name}{_SUFFIX}"]
        if problem := _problem(matrix):
            raise CovarianceError(f"{self._tensors.path}: the matrix of {name} {problem}")
        return matrix.double()

    def __contains__(self, name: object) -> bool:
        return f"{name}{_SUFFIX}" in self._tensors

    def __iter__(self) -> Iterator[str]:
        return (name.removesuffix(_SUFFIX) for name in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _problem(matrix: Tensor) -> str | None:
    """Why ``matrix`` cannot be a second moment, or ``None``."""
    if matrix.dtype not in (torch.float32, torch.float64):
        return f"has type {matrix.dtype}, not float32 or float64"
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
        return f"has shape {list(matrix.shape)}, which is not a square"
    panels = [slice(start, start + _PANEL) for start in range(0, len(matrix), _PANEL)]
    if not all(torch.isfinite(matrix[rows]).all() for rows in panels):
        return "has NaN or infinite entries"
    apart = max(float((matrix[rows] - matrix[:, rows].T).abs().max()) for rows in panels)
    if apart > _ASYMMETRY * max(float(matrix[rows].abs().max()) for rows in panels):
        return "is not symmetric"
    if matrix.diagonal().min() < 0 or matrix.diagonal().max() <= 0:
        return "has a diagonal that no second moment has"
    return None


def _samples(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _MalformedError(f"its number of samples is {value!r}")
    return value


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key)
    if not isinstance(value, str):
        raise _MalformedError(f"its metadata has no text for {key!r}")
    return value


def _hashes(value: Any, matrices: Mapping[str, Tensor]) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) != set(matrices):
        raise _MalformedError("its metadata does not give the hash of each weight")
    if not all(isinstance(sha256, str) for sha256 in value.values()):
        raise _MalformedError("its metadata has a hash that is not text")
    return value


def _errors(value: Any, matrices: Mapping[str, Tensor]) -> dict[str, float]:
    if not isinstance(value, dict) or not set(value) <= set(matrices):
        raise _MalformedError("its metadata has sampling errors of other weights")
    for error in value.values():
        if not isinstance(error, float | int) or not 0 <= error < math.inf:
            raise _MalformedError(f"its metadata has the sampling error {error!r}")
    return {name: float(error) for name, error in value.items()}


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
    """Refuse a file that would unpack to more than a matrix of width ``size``, before it is read.

    Members are bounded by what the archive says, which zipfile holds them to, and arrays by their
    own headers, since numpy takes the memory that a header announces.
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
    """Bytes of the array in a member, as its header says."""
    from numpy.lib import format as npy

    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    return math.prod(shape) * dtype.itemsize


def _not_npz(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: not an .npz file of plain arrays ({reason})")
