"""The registry of export formats, each a decorated function in its own file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from collabedit.algebra import LowRankUpdate
from collabedit.errors import InputError
from collabedit.export.base import Base
from collabedit.messages import Delta
from collabedit.names import Registry
from collabedit.progress import say
from collabedit.requests import Record

__all__ = [
    "Evaluation",
    "ExportFormat",
    "ExportJob",
    "export_format",
    "export_formats",
    "resolve_format",
]

#: Metrics by model ("unedited", "as exported"), then by name.
Evaluation: TypeAlias = "Mapping[str, Mapping[str, float]]"


@dataclass(frozen=True)
class ExportJob:
    """An export to perform.

    Attributes:
        base: the unedited model, with the delta.
        out: the file or directory to write.
        overwrite: replace the output of an earlier export.
        records: records to evaluate the result on; none by default.
        trust_remote_code: whether Python code that ships with the model may run.
        delta_file: file in which the delta is stored, if any.
    """

    base: Base
    out: Path
    overwrite: bool = False
    records: Sequence[Record] = ()
    trust_remote_code: bool = False
    delta_file: Path | None = None

    @property
    def delta(self) -> Delta:
        """The delta to export."""
        return self.base.delta

    def measured(self, changes: Mapping[str, LowRankUpdate]) -> Evaluation:
        """The metrics of the model before and after changes; none without records."""
        if not self.records:
            return {}
        from collabedit.evaluation import evaluate, summarise
        from collabedit.models import load_model

        model = load_model(
            self.base.name,
            dtype=self.delta.metadata.dtype,
            trust_remote_code=self.trust_remote_code,
        )
        before = _numbers(summarise(evaluate(model, self.records)))
        with model.edited(changes):
            after = _numbers(summarise(evaluate(model, self.records)))
        for name, row in (("unedited", before), ("as exported", after)):
            shown = ", ".join(f"{key} {value:.1f}" for key, value in row.items())
            say(f"{name}: {shown}")
        return {"unedited": before, "as exported": after}


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in summary.items() if key != "records"}


@dataclass(frozen=True)
class ExportFormat:
    """An export format.

    Attributes:
        name: value of ``--to``.
        function: ``f(job, **options)``; it returns notes for the user.
        suffix: suffix of the file that it writes; empty for a directory.
        options: its keyword options with their defaults.
    """

    name: str
    function: Callable[..., list[str]]
    suffix: str
    options: Mapping[str, Any]

    @property
    def summary(self) -> str:
        """First line of its documentation."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def check_options(self, options: Iterable[str]) -> None:
        """Check that the format has the given options.

        Raises:
            InputError: when it lacks one; the message lists its options.
        """
        for option in options:
            if option not in self.options:
                known = ", ".join(f"--{name.replace('_', '-')}" for name in self.options)
                raise InputError(
                    f"--to {self.name} has no option --{option.replace('_', '-')}; "
                    f"its options: {known or 'none'}"
                )

    def export(self, job: ExportJob, options: Mapping[str, Any] | None = None) -> list[str]:
        """Write the format.

        Args:
            job: the delta, its base model and the output.
            options: the format's options; those not given take their defaults.

        Returns:
            Notes for the user, one line each.

        Raises:
            InputError: when the format has no such option, or the target cannot be written.
            ModelError: when the model does not exist in this format.
        """
        self.check_options(options or {})
        return self.function(job, **(options or {}))


_FORMATS: Registry[ExportFormat] = Registry("export format")


def export_format(
    name: str, *, suffix: str = ""
) -> Callable[[Callable[..., list[str]]], Callable[..., list[str]]]:
    """Register the decorated function as an export format.

    Its keyword-only parameters are the format's options, with their defaults.

    Args:
        name: value of ``--to``.
        suffix: suffix of the file that it writes; empty for a directory.
    """

    def register(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
        parameters = inspect.signature(function).parameters.values()
        options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        _FORMATS.add(name, ExportFormat(name, function, suffix, options))
        return function

    return register


def export_formats() -> list[ExportFormat]:
    """All registered formats."""
    return list(_FORMATS)


def resolve_format(name: str | None, out: Path) -> ExportFormat:
    """The format with a name, case-insensitive; without a name, the one for a file's suffix.

    Raises:
        UnknownNameError: when there is none; the message lists the known ones.
    """
    if name is None:
        suffix = out.suffix.lower()
        name = next((f.name for f in _FORMATS if suffix and f.suffix == suffix), "model")
    return _FORMATS.find(name)
