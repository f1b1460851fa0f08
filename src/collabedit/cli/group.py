"""Shared by all commands: global options in any position, Ctrl-C, and the log of events."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["CommandGroup", "hoisted"]

#: Options of the program that may also follow the command, and whether they take a value.
_ANYWHERE = {"--quiet": False, "--verbose": False, "-v": False, "--log-json": True}


class CommandGroup(TyperGroup):
    """The program's group of commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept the program's own options after the command as well."""
        return super().parse_args(ctx, hoisted(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; say how to continue after Ctrl-C, and log how it ended."""
        from collabedit.errors import CollabEditError

        began, status, kind = time.monotonic(), 1, None
        interrupts = _Interrupts()
        try:
            with interrupts:
                result = super().invoke(ctx)
            status = 0
            return result
        except typer.Exit as stop:
            status = stop.exit_code
            raise
        except BaseException as error:
            if interrupts.pressed or isinstance(error, KeyboardInterrupt):
                status, kind = 130, "interrupted"
                print(_interrupted(), file=sys.stderr)
                raise typer.Exit(130) from None
            status = 2 if isinstance(error, CollabEditError) else 1
            kind = type(error).__name__
            raise
        finally:
            if (log := ctx.meta.get("log")) is not None:
                seconds = round(time.monotonic() - began, 3)
                log.write("end", status=status, error=kind, seconds=seconds)
                log.close()


class _Interrupts:
    """Records Ctrl-C, since a library that it interrupts may raise some other error instead.

    Attributes:
        pressed: whether it was pressed.
    """

    def __init__(self) -> None:
        self.pressed = False
        in_main = threading.current_thread() is threading.main_thread()
        self._used = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def __enter__(self) -> None:
        if self._used:
            signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._used:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.default_int_handler(number, frame)


def _interrupted() -> str:
    from collabedit.progress import interrupted_stage

    stage = interrupted_stage()
    where = "" if stage is None else f" during {stage}"
    return f"collabedit: interrupted{where}; run the same command again to continue"


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Move the program's own options to the front, wherever they are before a ``--``."""
    options: list[str] = []
    rest = list(arguments)
    position = 0
    while position < len(rest) and rest[position] != "--":
        name, assigned, _ = rest[position].partition("=")
        takes_value = _ANYWHERE.get(name)
        if takes_value is None:
            position += 1
            continue
        count = 2 if takes_value and not assigned else 1
        options += rest[position : position + count]
        del rest[position : position + count]
    return options + rest
