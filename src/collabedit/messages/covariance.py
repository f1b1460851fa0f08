"""Second moments of the edited weights' inputs, in memory and on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from collabedit._version import __version__
from collabedit.errors import CovarianceError
from collabedit.files import StoredTensors, tensor_metadata
from collabedit.messages.codec import TensorMessage
from collabedit.messages.metadata import ModelHeader, parse_header

__all__ = ["Covariance", "layers_of", "malformed_moment"]

_SUFFIX = "/second_moment"
#: Rows of a matrix that are checked together.
_PANEL = 1024
#: Allowed asymmetry relative to the largest entry: other programs' float32 sums have some.
_ASYMMETRY = 1e-5


class _CovarianceHeader(ModelHeader):
    format: Literal["collabedit.covariance"] = "collabedit.covariance"
    version: Literal[1] = 1
    samples: int = Field(gt=0, strict=True)
    corpus: str
    sampling_error: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )


@dataclass(frozen=True, eq=False)
class Covariance(TensorMessage):
    """Uncentred second moments ``C = E[k k^T]`` of the inputs of down-projections.

    In a file: ``<weight>/second_moment [d_in, d_in]``, or ``[n, d_e, d_e]`` for ``n`` experts, each
    with its gated keys averaged over all tokens.

    Attributes:
        second_moments: ``C [d_in, d_in]``, or ``[n, d_e, d_e]`` for experts, by weight name,
            float64, symmetric. Those of a file stay on disk and are read and checked at each use.
        samples: number of tokens averaged over.
        corpus: human-readable description of the text; no part of the text itself.
        model: the user's name for the model.
        model_sha256: SHA-256 by weight name of the weights it was collected on.
        sampling_error: by weight name, the standard error of ``C`` relative to its Frobenius norm;
            weights for which it is unknown are absent.
        created: date and time, ISO 8601.
        collabedit: version that made it.
    """

    what: ClassVar[str] = "covariance file"

    second_moments: Mapping[str, Tensor]
    samples: int
    corpus: str
    model: str
    model_sha256: Mapping[str, str]
    sampling_error: Mapping[str, float]
    created: str
    collabedit: str = __version__

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The matrices and the metadata."""
        header = _CovarianceHeader(
            samples=self.samples,
            corpus=self.corpus,
            model=self.model,
            model_sha256=dict(self.model_sha256),
            sampling_error=dict(self.sampling_error),
            created=self.created,
            collabedit=self.collabedit,
        )
        tensors = {f"{name}{_SUFFIX}": matrix for name, matrix in self.second_moments.items()}
        return tensors, header.model_dump(mode="json")

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], source: str
    ) -> Self:
        """Read untrusted second moments.

        Raises:
            CovarianceError: when they are something else or invalid.
        """
        header = parse_header(_CovarianceHeader, metadata, source, CovarianceError)
        strange = [name for name in tensors if not name.endswith(_SUFFIX) or name == _SUFFIX]
        if strange or not tensors:
            problem = f"it has the unknown tensor {strange[0]!r}" if strange else "it has no matrix"
            raise CovarianceError(f"{source}: {problem}")
        moments = _CheckedMoments(tensors, source)
        for name in moments:
            moments[name]  # checked now, and read again when it is needed
        if set(header.model_sha256) != set(moments):
            raise CovarianceError(f"{source}: its metadata does not give the hash of each weight")
        if not set(header.sampling_error) <= set(moments):
            raise CovarianceError(f"{source}: its metadata has sampling errors of other weights")
        return cls(
            moments,
            header.samples,
            header.corpus,
            header.model,
            header.model_sha256,
            header.sampling_error,
            header.created,
            header.collabedit,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a covariance file; its matrices stay on disk until they are needed.

        Raises:
            InputError: when the file is missing or not safetensors.
            CovarianceError: when it is not a covariance file or its content is invalid.
        """
        metadata = tensor_metadata(path, cls.what)
        return cls.unpack(StoredTensors(path, cls.what), metadata, os.fspath(path))

    def check_model(self, fingerprint: Mapping[str, str]) -> None:
        """Check that these are the second moments of the given weights.

        Args:
            fingerprint: SHA-256 by weight name (:meth:`LanguageModel.fingerprint`).

        Raises:
            CovarianceError: when a weight is missing here, or has another hash.
        """
        absent = [name for name in fingerprint if name not in self.second_moments]
        if absent:
            raise CovarianceError(
                f"the covariance has layers {layers_of(self.second_moments)}, but layers "
                f"{layers_of(absent)} are needed too; collect them all with: collabedit stats "
                f"collect --model {self.model} --layers {layers_of(fingerprint)}"
            )
        for name, sha256 in fingerprint.items():
            if self.model_sha256[name] != sha256:
                raise CovarianceError(
                    f"the covariance was collected on another model: its {name} (of {self.model}) "
                    "is not the one in use; collect it again with: collabedit stats collect"
                )


class _CheckedMoments(Mapping[str, Tensor]):
    """The matrices by weight name, each checked on access."""

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self._tensors, self._source = tensors, source

    def __getitem__(self, name: str) -> Tensor:
        matrix = self._tensors[f"{name}{_SUFFIX}"]
        if problem := malformed_moment(matrix):
            raise CovarianceError(f"{self._source}: the matrix of {name} {problem}")
        return matrix.double()

    def __contains__(self, name: object) -> bool:
        return f"{name}{_SUFFIX}" in self._tensors

    def __iter__(self) -> Iterator[str]:
        return (name.removesuffix(_SUFFIX) for name in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def malformed_moment(moment: Tensor) -> str | None:
    """Why a matrix, or a stack of experts', can't be a second moment; ``None`` if it can."""
    if moment.dtype not in (torch.float32, torch.float64):
        return f"has type {moment.dtype}, not float32 or float64"
    if moment.ndim not in (2, 3) or moment.shape[-1] != moment.shape[-2] or moment.numel() == 0:
        return f"has shape {list(moment.shape)}, which is not a square"
    blocks = moment if moment.ndim == 3 else moment[None]
    if problem := next(filter(None, map(_malformed_block, blocks)), None):
        return problem
    diagonal = blocks.diagonal(dim1=-2, dim2=-1)
    if diagonal.min() < 0 or diagonal.max() <= 0:  # an expert that no token saw has zeros
        return "has a diagonal that no second moment has"
    return None


def _malformed_block(matrix: Tensor) -> str | None:
    panels = [slice(start, start + _PANEL) for start in range(0, len(matrix), _PANEL)]
    if not all(torch.isfinite(matrix[rows]).all() for rows in panels):
        return "has NaN or infinite entries"
    asymmetry = max(float((matrix[rows] - matrix[:, rows].T).abs().max()) for rows in panels)
    if asymmetry > _ASYMMETRY * max(float(matrix[rows].abs().max()) for rows in panels):
        return "is not symmetric"
    return None


def layers_of(names: Iterable[str]) -> str:
    """The layer numbers in weight names, for messages."""
    matches = [re.search(r"\.(\d+)\.", name) for name in names]
    return ",".join(match.group(1) if match else "?" for match in matches)
