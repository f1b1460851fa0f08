"""Comparison of editors: each in each schedule, merged in each way, on the same edits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import cast

from collabedit.experiments.runs import Run, open_run
from collabedit.experiments.single_round import edit_and_measure
from collabedit.experiments.study import (
    Loaded,
    Measured,
    deal,
    described,
    parameters,
    records_of,
    requests_of,
    summary_of,
)
from collabedit.experiments.units import Unit, do_on_workers, resident
from collabedit.files import write_text
from collabedit.messages import RoundConfig
from collabedit.parties import Party
from collabedit.reporting.results import EditorPart, EditorsResult, SingleRoundResult
from collabedit.reporting.tables import tables_of
from collabedit.requests import Record
from collabedit.settings import EditorsSettings

__all__ = ["EITHER", "compare_editors"]

logger = logging.getLogger(__name__)

#: Stands for the schedule if it makes no difference.
EITHER = "either"


def compare_editors(
    settings: EditorsSettings,
    results: Path,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
) -> Run:
    """Run a single round with each editor in each schedule, and compare them.

    Each part is a separate run in a subfolder. The edits, the contexts and the metrics of the
    unedited model are the same for all; parts that need the same targets and priors share them.

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.
        executor: workers (:func:`collabedit.workers.open_workers`) that run the parts; everything
            runs in this process by default.

    Returns:
        The finished run.
    """
    (shares,) = deal(settings)
    loaded = Loaded.of(settings, executor)
    rounds = _rounds(settings, loaded)
    run = open_run(
        results,
        "editors",
        {
            "experiment": "editors",
            "settings": settings.model_dump(mode="json"),
            "rounds": [described(config) for config in rounds],
            "covariance": None if loaded.covariance is None else loaded.covariance.corpus,
        },
        fresh=fresh,
    )
    before = loaded.measure(run, "unedited", records_of(shares))
    if executor is not None:
        _on_workers(executor, loaded, run, rounds, shares, before)
    parts = []
    for number, config in enumerate(rounds, 1):
        logger.info("%d of %d: %s ...", number, len(rounds), _name(config))
        parts.append(_part(settings, loaded, run, config, shares, before))
    params = run.params()
    result = EditorsResult(
        unedited=summary_of(before),
        editors=parts,
        settings=params["settings"],
        versions=params["versions"],
    )
    markdown = [table.markdown() for table in tables_of(result, "Editors")]
    write_text(run.folder / "table.md", "\n".join(markdown))
    result.save(run.folder)
    return run


def _rounds(settings: EditorsSettings, loaded: Loaded) -> list[RoundConfig]:
    """A round for each editor and schedule; only one if the schedule makes no difference."""
    rounds: list[RoundConfig] = []
    for editor in settings.editors:
        for schedule in settings.schedules:
            contexts = rounds[0].contexts if rounds else None
            rounds.append(loaded.round(editor, schedule, contexts))
            if not rounds[-1].schedule_matters:
                break
    return rounds


def _part(
    settings: EditorsSettings,
    loaded: Loaded,
    whole: Run,
    config: RoundConfig,
    shares: Sequence[Sequence[Record]],
    before: Measured,
) -> EditorPart:
    """The results of one editor in one schedule; a finished part is read from its files."""
    run = _opened(settings, loaded, whole, config)
    if not run.finished:
        edit_and_measure(loaded.study(settings.single_round(config), run, config), shares, before)
    result = SingleRoundResult.load(run.folder)
    return EditorPart(
        editor=config.editor,
        schedule=config.schedule.value if config.schedule_matters else EITHER,
        layers=list(config.layers),
        run=_name(config),
        methods=result.methods,
        delta_relative_to_global=result.delta_relative_to_global,
        residual_norms=result.residual_norms,
    )


def _opened(settings: EditorsSettings, loaded: Loaded, whole: Run, config: RoundConfig) -> Run:
    """The run of one part, finished or not."""
    part_settings = settings.single_round(config)
    params = parameters("single-round", part_settings, config, loaded.covariance_for(config))
    return whole.part(_name(config), params)


def _on_workers(
    executor: Executor,
    loaded: Loaded,
    whole: Run,
    rounds: Sequence[RoundConfig],
    shares: Sequence[Sequence[Record]],
    before: Measured,
) -> None:
    """Make each part a worker's unit, once the shared targets are in the cache."""
    settings = cast(EditorsSettings, loaded.settings)
    opened = [(config, _opened(settings, loaded, whole, config)) for config in rounds]
    pending = [(config, run) for config, run in opened if not run.finished]
    for config, _ in pending:
        Party.together(loaded.model, requests_of(shares), config, solve=loaded.solve)
    units = [Unit(_unit, (settings, config, shares, before), run) for config, run in pending]
    do_on_workers(executor, units)


def _unit(
    run: Run,
    settings: EditorsSettings,
    config: RoundConfig,
    shares: Sequence[Sequence[Record]],
    before: Measured,
) -> None:
    study = resident(settings).study(settings.single_round(config), run, config)
    edit_and_measure(study, shares, before)


def _name(config: RoundConfig) -> str:
    return f"{config.editor}/{config.schedule.value}" if config.schedule_matters else config.editor
