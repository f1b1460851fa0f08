"""Ways between a coordinator and parties, each a thin adapter of :class:`rounds.Transport`."""

from collabedit.transports.in_process import InProcess, run_in_process

__all__ = ["InProcess", "run_in_process"]
