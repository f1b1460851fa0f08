"""Units of work in other processes and on other machines, behind ``concurrent.futures.Executor``.

A unit is what is computed together with or without workers: the targets of one batch of edits, a
block of the covariance's text, a few batches of prompts or of texts to write, or one editor or
trajectory of a study. The results are therefore identical to the byte for any number of workers,
provided that all use the same number of threads on the same kind of processor.
"""

from collabedit.workers.executor import Worker, WorkerExecutor, WorkerLostError
from collabedit.workers.model_workers import ModelSource, ModelWorkers, resident_model
from collabedit.workers.opening import (
    check_workers,
    open_model_workers,
    open_workers,
    threads_of_workers,
)

__all__ = [
    "ModelSource",
    "ModelWorkers",
    "Worker",
    "WorkerExecutor",
    "WorkerLostError",
    "check_workers",
    "open_model_workers",
    "open_workers",
    "resident_model",
    "threads_of_workers",
]
