"""Silences what ``transformers`` prints while it loads and saves; our own messages suffice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_transformers", "without_progress_bars"]


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars of ``transformers`` within the block, which would break our display.

    Its warnings stay.
    """
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the progress bars and warnings of ``transformers`` within the block.

    Nothing that matters is lost: the loading report says what a checkpoint lacks, and failures are
    exceptions.
    """
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        with without_progress_bars():
            yield
    finally:
        transformers_logging.set_verbosity(level)
