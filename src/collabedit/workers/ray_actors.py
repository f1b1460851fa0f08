"""Workers that are Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

from collabedit.errors import InputError
from collabedit.workers.executor import Outcome, WorkerLostError, outcome
from collabedit.workers.processes import prepare

__all__ = ["RayWorker", "connect"]


class _Actor:
    def __init__(self, threads: int) -> None:
        prepare(threads)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        return outcome(function, *args, **kwargs)


class RayWorker:
    """An actor, with a GPU of its own where the cluster has GPUs.

    Args:
        threads: how many it computes with, which is also how many processor cores it reserves.
        gpus: how many GPUs it reserves.
    """

    def __init__(self, threads: int, gpus: int) -> None:
        self._ray = import_module("ray")
        kind = self._ray.remote(num_cpus=threads, num_gpus=gpus)(_Actor)
        self._actor = kind.remote(threads)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Call a function in the actor."""
        try:
            answer: Outcome = self._ray.get(self._actor.call.remote(function, *args, **kwargs))
        except self._ray.exceptions.RayActorError:
            raise WorkerLostError from None
        return answer

    def close(self) -> None:
        """End the actor."""
        self._ray.kill(self._actor)


def connect(address: str | None, threads: int) -> tuple[Callable[[], RayWorker], int]:
    """Join a cluster, or start one on this machine.

    Args:
        address: ``ray://HOST:PORT`` of a cluster; by default, the one running on this machine, or
            else a new one.
        threads: threads per worker.

    Returns:
        A function that starts a worker, and how many workers the cluster has room for.

    Raises:
        InputError: when Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = import_module("ray")
    except ImportError:
        raise InputError(
            "--workers ray needs the package ray; install it with: pip install 'collabedit[ray]'"
        ) from None
    if not ray.is_initialized():
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # anything that matters is raised as an error
                ray.init(address, log_to_driver=False, runtime_env=_environment(), **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"--workers: cannot reach Ray {address or 'on this machine'}: {reason}; start it "
                "with 'ray start', and set RAY_AUTH_MODE=token if it asks for a token"
            ) from None
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = gpus or int(resources.get("CPU", 1)) // threads
    return lambda: RayWorker(threads, min(gpus, 1)), max(1, count)


def _environment() -> dict[str, Any]:
    """The part of this process's environment that workers inherit."""
    names = ("COLLABEDIT_CACHE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "PYTHONPATH")
    return {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}
