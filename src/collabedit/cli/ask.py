"""``collabedit ask``: what a model says, before and after its edits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import (
    DeviceOption,
    DtypeOption,
    SkipBadOption,
    StrictOption,
    TrustOption,
    require_all_took,
)

if TYPE_CHECKING:
    from collabedit.messages import Delta
    from collabedit.models import LanguageModel


def ask(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|DELTA",
            help="A delta (.safetensors), to ask its model before and after; or a model: a "
            "built-in name, a directory, a .gguf file, or a Hub id.",
        ),
    ],
    questions: Annotated[list[str] | None, typer.Argument(help="What to ask.")] = None,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", "-r", help="A file of edits: ask about each, show which took."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The unedited model, if not the one the delta names."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer.")] = 40,
    strict: StrictOption = False,
    dtype: DtypeOption = default_of("dtype"),
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    skip_bad: SkipBadOption = False,
) -> None:
    """Ask a model, raw and in a chat; with a delta or --model, before and after side by side.

    Answers are greedy: the most likely ones, and the same every time.
    """
    from collabedit.errors import InputError
    from collabedit.messages import Delta
    from collabedit.models import load_model
    from collabedit.requests import load_records

    if bool(questions) == (requests is not None):
        raise InputError("give either questions or --requests FILE")
    if strict and requests is None:
        raise InputError("--strict needs --requests, which says what the answers should be")
    records = [] if requests is None else load_records(requests, skip_bad=skip_bad)
    delta = Delta.load(Path(target)) if target.endswith(".safetensors") else None
    if delta is not None:
        delta.require_complete()
        dtype = delta.metadata.dtype
    if requests is not None and delta is None and model is None:
        raise InputError(
            f"--requests compares before and after; give the unedited model as well: --model NAME, "
            f"or a delta instead of {target}"
        )
    given = model or (delta.metadata.model if delta else target)
    before = load_model(given, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    after = before
    if delta is None and model is not None:
        after = load_model(target, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    pair = _Pair(before, after, delta)
    if requests is None:
        _show(pair, questions or [], max_tokens)
        return
    from collabedit.evaluation.outcomes import ask_edits, outcomes
    from collabedit.reporting.outcome_tables import print_outcomes

    asked = ask_edits(before, records)
    with pair.edited() as edited:
        results = outcomes(records, asked, ask_edits(edited, records))
    print_outcomes(results)
    require_all_took(results, strict)


class _Pair:
    """A model before and after its edits; the same model twice if there are none."""

    def __init__(self, before: LanguageModel, after: LanguageModel, delta: Delta | None) -> None:
        self.before, self._after, self._delta = before, after, delta
        if delta is not None:
            from collabedit.parties import check_delta_model

            check_delta_model(before, delta)

    @property
    def differs(self) -> bool:
        return self._delta is not None or self._after is not self.before

    @contextmanager
    def edited(self) -> Iterator[LanguageModel]:
        if self._delta is None:
            yield self._after
            return
        with self.before.edited(self._delta.changes):
            yield self.before


def _show(pair: _Pair, questions: list[str], max_tokens: int) -> None:
    """Print what the models write after each question as plain text, and in a chat."""
    from collabedit.evaluation.answers import write
    from collabedit.evaluation.forms import raw_and_chat
    from collabedit.reporting.outcome_tables import side_by_side
    from collabedit.reporting.table import console

    tokenizer = pair.before.tokenizer
    asked = [probe for question in questions for probe in raw_and_chat(question, tokenizer)]
    columns = [[text for text, _ in write(pair.before, asked, max_tokens=max_tokens)]]
    if pair.differs:
        with pair.edited() as edited:
            columns.append([text for text, _ in write(edited, asked, max_tokens=max_tokens)])
    headings = ["asked", "as", *(["before", "after"] if pair.differs else ["answer"])]
    rows = [
        [probe.prompt, "chat" if probe.form.chat else "text", *texts]
        for probe, *texts in zip(asked, *columns, strict=True)
    ]
    console().print(side_by_side("What the model says", headings, rows).rich())
