"""Cholesky factors of wide priors on disk: ``d_in^3 / 3`` operations once, not once a process."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from torch import Tensor

from collabedit.algebra import Prior
from collabedit.errors import InputError
from collabedit.files import cache_directory, load_tensors, save_tensors

__all__ = ["prior_of"]

#: Narrower matrices are factored faster than their factors are read.
SMALLEST_WIDTH = 4096


def prior_of(second_moment: Tensor, weight: float) -> Prior:
    """MEMIT's prior ``lambda C``, with the Cholesky factor of ``C`` kept in the user's cache.

    A factor is found by the digest of ``C``, so it serves every ``lambda``. That of a singular
    ``C``, which has to be shifted, is not kept.

    Args:
        second_moment: ``C [d_in, d_in]``, float64.
        weight: ``lambda``.

    Raises:
        CovarianceError: when ``C`` cannot be a prior; see :meth:`Prior.from_second_moment`.
    """
    if len(second_moment) < SMALLEST_WIDTH:
        return Prior.from_second_moment(second_moment, weight)
    path = _path(second_moment)
    factor = _load(path, second_moment)
    if factor is not None:
        return Prior.from_factor(math.sqrt(weight) * factor, weight * second_moment)
    prior = Prior.from_second_moment(second_moment, weight)
    if prior.matrix.equal(weight * second_moment):
        save_tensors(path, {"cholesky": prior.cholesky / math.sqrt(weight)}, {})
    return prior


def _path(second_moment: Tensor) -> Path:
    digest = hashlib.sha256(second_moment.double().contiguous().numpy().data).hexdigest()
    return cache_directory("cholesky") / f"{digest}.safetensors"


def _load(path: Path, second_moment: Tensor) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        factor = load_tensors(path, "cached factor")[0]["cholesky"]
    except (InputError, KeyError):
        return None
    return factor if factor.shape == second_moment.shape else None
