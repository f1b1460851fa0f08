"""Factors of wide second moments on disk: ``O(d_in^3)`` once, not in every process."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from collabedit.algebra import Prior
from collabedit.errors import CovarianceError, InputError
from collabedit.files import cache_directory, cache_tensors, load_tensors

__all__ = ["null_space_prior_of", "prior_of"]

logger = logging.getLogger(__name__)

#: Factoring narrower matrices is faster than reading their factors.
SMALLEST_WIDTH = 4096


def prior_of(second_moment: Tensor, weight: float) -> Prior:
    """MEMIT's prior ``lambda C``, with the Cholesky factor of ``C`` kept in the user's cache.

    A factor is keyed by the digest of ``C``, so it serves every ``lambda``. The factor of a
    singular ``C`` is kept with the shift that made it definite.

    Args:
        second_moment: ``C [d_in, d_in]``, float64.
        weight: ``lambda``.

    Raises:
        CovarianceError: when ``C`` cannot be a prior; see :meth:`Prior.from_second_moment`.
    """
    if len(second_moment) < SMALLEST_WIDTH:
        return Prior.from_second_moment(second_moment, weight)
    path = _path("cholesky", second_moment)
    stored = _load(path, ["cholesky", "shift"], second_moment)
    if stored is not None:
        matrix = weight * second_moment
        if (share := float(stored[1])) > 0:
            logger.info("the second moment is singular; its shifted factor is in the cache")
            matrix.diagonal().add_(share * matrix.diagonal().mean())
        return Prior.from_factor(math.sqrt(weight) * stored[0], matrix, shift=share)
    prior = Prior.from_second_moment(second_moment, weight)
    factor = {
        "cholesky": prior.cholesky / math.sqrt(weight),
        "shift": torch.tensor(prior.shift, dtype=torch.float64),
    }
    cache_tensors(path, factor, {})
    return prior


def null_space_prior_of(second_moment: Tensor, threshold: float, weight: float) -> Prior:
    """AlphaEdit's prior, with the eigenvectors of ``C`` kept in the user's cache.

    An update may touch the directions that ordinary text hardly uses: the eigenvectors of ``C``
    with eigenvalues below the threshold. The cached eigenvectors serve every threshold.

    Args:
        second_moment: ``C [d_in, d_in]``, float64.
        threshold: of the eigenvalues.
        weight: ``lambda_2``.

    Raises:
        CovarianceError: when ``C`` is not finite, or no eigenvalue is below the threshold.
    """
    values, vectors = _eigenvectors(second_moment)
    chosen = values < threshold
    if not chosen.any():
        raise CovarianceError(
            f"no direction is left to edit: all eigenvalues of the second moment are "
            f"{float(values[0]):.2g} or more; raise null_space_threshold above that"
        )
    logger.info("%d of %d directions may change", int(chosen.sum()), len(chosen))
    return Prior.within(vectors[:, chosen], weight)


def _eigenvectors(second_moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``[d_in]``, ascending, and the eigenvectors ``[d_in, d_in]`` as columns."""
    if not torch.isfinite(second_moment).all():
        raise CovarianceError("the second moment has NaN or infinite entries; collect it again")
    if len(second_moment) < SMALLEST_WIDTH:
        values, vectors = torch.linalg.eigh(second_moment)
        return values, vectors
    path = _path("eigenvectors", second_moment)
    stored = _load(path, ["vectors", "values"], second_moment)
    if stored is not None:
        return stored[1], stored[0]
    values, vectors = torch.linalg.eigh(second_moment)
    cache_tensors(path, {"values": values, "vectors": vectors}, {})
    return values, vectors


def _path(kind: str, second_moment: Tensor) -> Path:
    digest = hashlib.sha256(second_moment.double().contiguous().numpy().data).hexdigest()
    return cache_directory(kind) / f"{digest}.safetensors"


def _load(path: Path, names: Sequence[str], second_moment: Tensor) -> list[Tensor] | None:
    """The named arrays, of which the first must be as large as ``C``; ``None`` if missing."""
    if not path.is_file():
        return None
    try:
        stored = load_tensors(path, "cached factor")[0]
        arrays = [stored[name] for name in names]
    except (InputError, KeyError):
        return None
    return arrays if arrays[0].shape == second_moment.shape else None
