"""Units of work in other processes and on other machines, behind ``concurrent.futures.Executor``.

A unit is what is computed together in any case: the targets of one batch of edits, or one editor or
trajectory of a study. So the results are the same bytes for any number of workers, as long as all
compute with the same number of threads on processors of one kind.
"""

from collabedit.workers.executor import Worker, WorkerExecutor, WorkerLostError
from collabedit.workers.opening import (
    check_workers,
    open_workers,
    solving_targets,
    threads_of_workers,
)
from collabedit.workers.targets import ModelSource, SolvedByWorkers, resident_model

__all__ = [
    "ModelSource",
    "SolvedByWorkers",
    "Worker",
    "WorkerExecutor",
    "WorkerLostError",
    "check_workers",
    "open_workers",
    "resident_model",
    "solving_targets",
    "threads_of_workers",
]
