"""The command that repeats a run, from the settings in its summary."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from collabedit.reporting.results import PapersResult, RunResult, TuneResult

__all__ = ["command_of"]

#: Settings whose options have another name.
_OPTIONS = {
    "augment_objects": "objects",
    "augment_prompts": "prompts",
    "hyperparameters": "hparams",
    "modes": "mode",
}
#: Flags that can be turned off.
_ON_BY_DEFAULT = ("augment_objects", "augment_prompts")

#: File for the settings' hyper-parameters.
HPARAMS = "hparams.json"


def command_of(result: RunResult) -> str | None:
    """The command line that repeats a run; ``None`` if its settings are unknown.

    Hyper-parameters are read from :data:`HPARAMS`, if the settings have any.
    """
    settings = dict(result.settings)
    if not settings or isinstance(result, PapersResult):
        return None
    words = ["collabedit", "run", result.experiment]
    if isinstance(result, TuneResult):
        words = ["collabedit", "tune", str(settings.pop("model", ""))]
    for name, value in settings.items():
        words += _option(name, value)
    return shlex.join(words)


def _option(name: str, value: Any) -> Iterator[str]:
    option = _OPTIONS.get(name, name).replace("_", "-")
    if value is None or value is False:
        if name in _ON_BY_DEFAULT:
            yield f"--no-{option}"
    elif value is True:
        yield f"--{option}"
    elif name == "after_merge":
        for step in value:
            yield f"--{option}"
            yield _step(step)
    else:
        yield f"--{option}"
        yield _word(name, value)


def _step(step: Mapping[str, Any]) -> str:
    """A step after merging as the option takes it, such as ``SPHERE:energy=0.5,strength=0.8``."""
    options = ",".join(f"{name}={value}" for name, value in step.get("options", {}).items())
    return f"{step['name']}:{options}" if options else str(step["name"])


def _word(name: str, value: Any) -> str:
    if name == "hyperparameters":
        return HPARAMS
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
