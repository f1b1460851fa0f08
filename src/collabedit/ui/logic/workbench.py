"""A model, its edits, and its answers before and after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collabedit.errors import InputError
from collabedit.progress.plans import COMMANDS
from collabedit.requests import Record, read_requests
from collabedit.ui.logic.drafts import Draft, Review, review
from collabedit.ui.logic.jobs import Job, Jobs

if TYPE_CHECKING:
    from collabedit.evaluation.forms import Probe
    from collabedit.evaluation.outcomes import Outcomes
    from collabedit.messages import Delta
    from collabedit.models import LanguageModel

__all__ = ["EditSettings", "Edited", "Neighbour", "Said", "Workbench"]

#: How many neighbours are asked about, per edit and in all.
_EACH, _ALL = 3, 60

_MOST_TOKENS = 40


@dataclass(frozen=True)
class EditSettings:
    """How to edit.

    Attributes:
        model: a built-in name, a path, or a Hub id.
        editor: name of the editor.
        schedule: name of the schedule.
        covariance: file of second moments; by default, collected once and kept.
        prior_weight: ``lambda``; the preset's by default.
        retry: give edits that did not take a second pass.
    """

    model: str = "smollm2-135m"
    editor: str = "MEMIT"
    schedule: str = "layerwise"
    covariance: str = ""
    prior_weight: float | None = None
    retry: bool = True


@dataclass(frozen=True)
class Said:
    """What a model wrote after a question, before and after its edits.

    Attributes:
        question: the question.
        chat: whether it was asked in the model's chat template, or as plain text to continue.
        before: the unedited model's answer.
        after: the edited model's; ``None`` if nothing has been edited.
    """

    question: str
    chat: bool
    before: str
    after: str | None


@dataclass(frozen=True)
class Neighbour:
    """A model's answer about a fact that should stay as it was.

    Attributes:
        prompt: the prompt that it continued.
        answer: the right answer, if known.
        before: the unedited model's continuation.
        after: the edited model's.
    """

    prompt: str
    answer: str | None
    before: str
    after: str

    @property
    def same(self) -> bool:
        """Whether the edited model writes exactly the same."""
        return self.before == self.after

    @property
    def verdict(self) -> str:
        """How the answer changed, in words."""
        from collabedit.evaluation.matching import names

        if self.same:
            return "same"
        if self.answer is not None and names(self.after, self.answer):
            return "other words, still right"
        return "changed"


@dataclass(frozen=True)
class Edited:
    """The result of editing.

    Attributes:
        model: the user's name for the model.
        delta: the change of its weights.
        outcomes: the outcome of each edit; ``None`` for a delta that was merged elsewhere.
        neighbours: the answers about the edits' neighbours.
    """

    model: str
    delta: Delta
    outcomes: Outcomes | None = None
    neighbours: tuple[Neighbour, ...] = ()


class Workbench:
    """The model behind the Edit tab. The language model stays loaded between jobs, unedited.

    Args:
        jobs: where long work runs.

    Attributes:
        settings: how to edit.
        drafts: the rows of edits.
        loaded: the records of files.
        sources: names of these files.
        edited: the result of the last edit, or the delta that was opened.
        said: answers to questions since then, newest first.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.settings = EditSettings()
        self.drafts = [Draft()]
        self.loaded: tuple[Record, ...] = ()
        self.sources: tuple[str, ...] = ()
        self.edited: Edited | None = None
        self.said: list[Said] = []
        self._model: LanguageModel | None = None
        self._loaded_as = ("", "")

    def change(self, **values: Any) -> None:
        """Change settings by name."""
        self.settings = replace(self.settings, **values)

    def review(self) -> Review:
        """Read and compare all edits as they are now."""
        return review(self.drafts, self.loaded)

    def load_file(self, path: str | Path, name: str | None = None) -> list[str]:
        """Add the records of a file of requests.

        Args:
            path: the file.
            name: its name on the page; its path by default.

        Returns:
            Warnings about it, one line each.

        Raises:
            InputError: when the file can't be read, or a record in it is unusable.
        """
        content = read_requests(str(Path(path).expanduser()))
        content = replace(content, source=name or str(path))
        problem = content.problem()
        if problem is not None:
            raise InputError(problem)
        self.loaded += content.records
        self.sources += (f"{content.source} ({len(content.records)})",)
        return list(content.warnings)

    def clear_files(self) -> None:
        """Forget the records of files."""
        self.loaded, self.sources = (), ()

    def edit(self) -> Job:
        """Begin to edit the unedited model with all edits on the page.

        Raises:
            InputError: when the edits or the settings are unusable, or another job is running.
        """
        from collabedit.editors import resolve_editor
        from collabedit.messages import parse_schedule

        edits, settings = self.review(), self.settings
        if edits.problem is not None:
            raise InputError(edits.problem)
        if not settings.model.strip():
            raise InputError("name a model: a built-in one, a directory, a .gguf file or a Hub id")
        resolve_editor(settings.editor)
        parse_schedule(settings.schedule)
        count = len(edits.records)
        title = f"Editing {settings.model} with {count} edit{'' if count == 1 else 's'}"

        def work() -> Edited:
            edited = self._edit(settings, edits.records)
            self.edited, self.said = edited, []
            return edited

        return self.jobs.start(title, work, (*COMMANDS["edit"], "Generating"))

    def open_delta(self, path: str | Path, model: str | None = None) -> Job:
        """Begin to open a complete delta, to ask its model and to save it in another format.

        Args:
            path: the delta's file.
            model: the unedited model on this machine, if not the one that the delta names.

        Raises:
            InputError: when the file can't be read, or another job is running.
            RoundError: when it is not a complete delta.
        """
        from collabedit.messages import Delta

        delta = Delta.load(Path(path).expanduser())
        delta.require_complete()
        name = model or delta.metadata.model

        def work() -> Edited:
            from collabedit.parties import check_delta_model

            check_delta_model(self._load(name, delta.metadata.dtype), delta)
            edited = Edited(name, delta)
            self.edited, self.said = edited, []
            return edited

        return self.jobs.start(f"Opening {path}", work, ("Loading the model",))

    def ask(self, question: str) -> Job:
        """Begin to ask a question raw and in chat, before and after the edits.

        Without edits, the chosen model is asked.

        Raises:
            InputError: when there is no question or no model, or another job is running.
        """
        question = question.strip()
        if not question:
            raise InputError("type a question, or the beginning of a sentence")
        edited = self.edited
        name = self.settings.model if edited is None else edited.model
        dtype = "float32" if edited is None else edited.delta.metadata.dtype

        def work() -> list[Said]:
            model = self._load(name, dtype)
            answers = _asked(model, question, edited)
            self.said = [*answers, *self.said]
            return answers

        stages = ("Loading the model", "Generating")
        return self.jobs.start(f"Asking {name}", work, stages)

    def export(self, to: str, out: str, *, overwrite: bool = False) -> Job:
        """Begin to save the edited model in one of the registered export formats.

        Args:
            to: name of the format.
            out: the file or the directory.
            overwrite: replace what an earlier export wrote there.

        Raises:
            InputError: when nothing has been edited, no path is given, or another job is running.
            UnknownNameError: when there is no such format.
        """
        from collabedit.export import resolve_format

        if self.edited is None:
            raise InputError("there is nothing to save yet; edit a model first")
        if not out.strip():
            raise InputError("name the file or the directory to write")
        edited, target = self.edited, Path(out.strip()).expanduser()
        chosen = resolve_format(to, target)
        if chosen.suffix and target.suffix.lower() != chosen.suffix:
            raise InputError(
                f"{target}: the name of a {chosen.name} file must end in {chosen.suffix}"
            )

        def work() -> list[str]:
            from collabedit.export import Base, ExportJob

            base = Base.of(edited.delta, edited.model)
            notes = chosen.export(ExportJob(base, target, overwrite))
            return [f"Saved in {target}", *notes]

        return self.jobs.start(f"Saving {target}", work)

    def _load(self, name: str, dtype: str = "float32") -> LanguageModel:
        """The unedited model, loaded unless it is the one already loaded."""
        from collabedit.models import load_model

        if self._model is None or self._loaded_as != (name, dtype):
            self._model = None  # frees the old one first
            self._model = load_model(name, dtype=dtype)
            self._loaded_as = (name, dtype)
        return self._model

    def _edit(self, settings: EditSettings, records: Sequence[Record]) -> Edited:
        from collabedit.collaboration import find_delta
        from collabedit.editors import default_hyperparameters, resolve_editor
        from collabedit.merging import resolve_method
        from collabedit.messages import parse_schedule
        from collabedit.parties import new_round

        model = self._load(settings.model)
        editor = resolve_editor(settings.editor).name
        preset = default_hyperparameters(model.name, model.structure, editor).hyperparameters
        config = new_round(
            model,
            editor=editor,
            schedule=parse_schedule(settings.schedule),
            hyperparameters=preset.with_changes(prior_weight=settings.prior_weight),
        )
        delta, outcomes = find_delta(
            model,
            {"": records},
            config,
            resolve_method("GLOBAL"),
            covariance=settings.covariance.strip() or None,
            retry=settings.retry,
        )
        return Edited(settings.model, delta, outcomes, _neighbours(model, records, delta))


def _asked(model: LanguageModel, question: str, edited: Edited | None) -> list[Said]:
    from collabedit.evaluation.forms import raw_and_chat

    probes = raw_and_chat(question, model.tokenizer)
    before, after = _before_and_after(model, probes, None if edited is None else edited.delta)
    return [
        Said(question, probe.form.chat, before[index], after[index] if after else None)
        for index, probe in enumerate(probes)
    ]


def _neighbours(
    model: LanguageModel, records: Sequence[Record], delta: Delta
) -> tuple[Neighbour, ...]:
    """The answers about a few neighbours of each edit, except those too long for the model."""
    from collabedit.evaluation.answers import fitting
    from collabedit.evaluation.forms import Probe, form_of

    raw = form_of("raw")
    asked: dict[str, tuple[Probe, str | None]] = {}
    for record in records:
        answer = record.neighborhood_target or record.request.target_true
        for prompt in record.neighborhood_prompts[:_EACH]:
            asked.setdefault(prompt, (Probe(raw, prompt, ()), answer))
    fit = fitting(model, [probe for probe, _ in asked.values()])[:_ALL]
    if not fit:
        return ()
    before, after = _before_and_after(model, fit, delta)
    return tuple(
        Neighbour(probe.prompt, asked[probe.prompt][1], before[index], after[index])
        for index, probe in enumerate(fit)
    )


def _before_and_after(
    model: LanguageModel, probes: Sequence[Probe], delta: Delta | None
) -> tuple[list[str], list[str]]:
    """What a model writes after probes, before and after its edits (empty if there are none)."""
    from collabedit.evaluation.answers import write

    def texts() -> list[str]:
        return [text for text, _ in write(model, probes, max_tokens=_MOST_TOKENS)]

    before = texts()
    if delta is None:
        return before, []
    with model.edited(delta.changes):
        return before, texts()
