"""Several rounds: how well each merge method preserves the edits of earlier rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from collabedit.algebra import LowRankUpdate, relative_distance
from collabedit.evaluation import metrics, sample_of, summarise
from collabedit.evaluation.downstream import TaskScores, check_tasks, downstream
from collabedit.experiments.guards import Advice, Guard, RoundSeen, relative_norm
from collabedit.experiments.runs import Run
from collabedit.experiments.single_round import write_cases
from collabedit.experiments.study import (
    Measured,
    Study,
    deal,
    known_norms,
    open_study,
    records_of,
    requests_of,
    summary_of,
)
from collabedit.experiments.trajectory import Trajectory, trajectories
from collabedit.experiments.units import Unit, do_on_workers, resident
from collabedit.merging import POOLED, resolve_method
from collabedit.messages import RoundConfig, RoundState
from collabedit.progress import plan, say
from collabedit.progress.plans import study_stages
from collabedit.requests import Record
from collabedit.settings import MultiRoundSettings

__all__ = ["multi_round"]


def multi_round(
    settings: MultiRoundSettings,
    results: Path,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
) -> Run:
    """Edit in several rounds under each merge method; measure the edits so far after each.

    Every method follows its own trajectory. A killed run continues from its last finished round.
    Long runs measure a sample of each round's edits, after some rounds
    (:class:`~collabedit.settings.MultiRoundSettings`).

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.
        executor: workers (:func:`collabedit.workers.open_workers`); runs here by default.

    Returns:
        The finished run.
    """
    rounds = deal(settings, settings.rounds)
    if settings.tasks:
        check_tasks(settings.tasks)
    ways = trajectories(settings.merge, settings.betas)
    stages = study_stages(
        len(ways),
        [number + 1 in settings.measured for number in range(settings.rounds)],
        answers=settings.asks_for_answers,
        heldout=settings.heldout is not None,
    )
    with plan(stages):
        study = open_study("multi-round", settings, results, fresh=fresh, executor=executor)
        return _follow(study, settings, rounds, ways, executor)


def _follow(
    study: Study,
    settings: MultiRoundSettings,
    rounds: Sequence[Sequence[Sequence[Record]]],
    ways: Sequence[Trajectory],
    executor: Executor | None,
) -> Run:
    """Follow all trajectories, and finish the run."""
    records = _measured_records(settings, rounds)
    everything = records_of(records)
    before = study.measure("unedited", everything)
    tasks = {"unedited": [_tasks(study, "unedited", settings)]}
    measured: dict[str, list[Measured]] = {}
    states: dict[Trajectory, list[RoundState]] = {}
    guards: dict[str, Guard] = {}
    if executor is not None:
        arguments = (settings, study.config, rounds)
        units = [Unit(_unit, (way, *arguments), study.run, _files(way)) for way in ways]
        do_on_workers(executor, units)
    for trajectory in ways:
        name = trajectory.name
        states[trajectory], measured[name], tasks[name] = [], [], []
        method = resolve_method(trajectory.method)
        advice = Advice.of(study.config.rules, study.config.hyperparameters, method)
        guards[name] = Guard(name, advice, before["perplexity"])
        for state in trajectory.follow(study, [requests_of(shares) for shares in rounds]):
            states[trajectory].append(state)
            latest = None
            if state.finished in settings.measured:
                latest = _measured(study, trajectory, state, records)
                measured[name].append(latest)
                tasks[name].append(_tasks_after(study, trajectory, state, settings))
            seen = _seen(study, states[trajectory], latest, records)
            if latest is not None:
                standing = _standing(latest, seen, tasks[name][-1])
                say(f"{name}, after round {state.finished} of {settings.rounds}: {standing}")
            guards[name].see(seen)
    apart = _distances(states)
    write_cases(study.run, everything, before, {name: m[-1] for name, m in measured.items()})
    return study.finish(
        {
            "unedited": summary_of(before),
            "methods": {name: summary_of(parts[-1]) for name, parts in measured.items()},
            "delta_relative_to_global": {name: parts[-1] for name, parts in apart.items()},
            "delta_relative_to_global_by_round": apart,
            "residual_norms": known_norms(
                {way.name: way.about(study, settings.rounds)["residual_norms"] for way in ways}
            ),
            "distance_from_pooled_by_round": _distances_from_pooled(study, states),
            "measured_after": list(settings.measured),
            "rounds": {
                name: [_by_round(part, records) for part in parts]
                for name, parts in measured.items()
            },
            "perplexity_by_round": {
                name: [part["perplexity"] for part in parts] for name, parts in measured.items()
            },
            "tasks": tasks if settings.tasks else {},
            "warnings": {name: guard.warnings for name, guard in guards.items() if guard.warnings},
        }
    )


def _measured_records(
    settings: MultiRoundSettings, rounds: Sequence[Sequence[Sequence[Record]]]
) -> list[list[Record]]:
    """The records of each round that are measured."""
    everything = [records_of(shares) for shares in rounds]
    return [
        [part[number] for number in sample_of(part, settings.sample, settings.seed)]
        for part in everything
    ]


def _files(trajectory: Trajectory) -> tuple[str, ...]:
    """The files of a run that a trajectory needs, and those that it has finished."""
    kinds = ("states", "facts", "evaluation", "tasks")
    finished = (f"stages/{kind}/{trajectory.name}/*" for kind in kinds)
    return ("params.json", "round.json", *finished)


def _unit(
    run: Run,
    trajectory: Trajectory,
    settings: MultiRoundSettings,
    config: RoundConfig,
    rounds: Sequence[Sequence[Sequence[Record]]],
) -> None:
    """A worker's unit: all rounds of one trajectory, measured."""
    study = resident(settings).study(settings, run, config)
    records = _measured_records(settings, rounds)
    for state in trajectory.follow(study, [requests_of(shares) for shares in rounds]):
        if state.finished in settings.measured:
            _measured(study, trajectory, state, records)
            _tasks_after(study, trajectory, state, settings)


def _measured(
    study: Study, trajectory: Trajectory, state: RoundState, records: Sequence[Sequence[Record]]
) -> Measured:
    """The edits of all rounds so far."""
    so_far = records_of(records[: state.finished])
    with study.model.edited(state.changes):
        return study.measure(f"{trajectory.name}/round_{state.finished}", so_far)


def _tasks_after(
    study: Study, trajectory: Trajectory, state: RoundState, settings: MultiRoundSettings
) -> TaskScores:
    with study.model.edited(state.changes):
        return _tasks(study, f"{trajectory.name}/round_{state.finished}", settings)


def _tasks(study: Study, stage: str, settings: MultiRoundSettings) -> TaskScores:
    """Downstream tasks on the model as it is now."""
    if not settings.tasks:
        return {}
    return study.run.json_stage(f"tasks/{stage}", lambda: downstream(study.model, settings.tasks))


def _standing(measured: Measured, seen: RoundSeen, tasks: TaskScores) -> str:
    """What was measured after a round, in a line for those who wait for the others."""
    now = summarise(measured["cases"])
    parts = [f"{row.heading} {now[row.key]:.1f}" for row in metrics("headline") if row.key in now]
    if seen.first_score is not None:
        parts.append(f"Score of the first round {seen.first_score:.1f}")
    if seen.perplexity is not None:
        parts.append(f"perplexity {seen.perplexity:.4g}")
    parts += [f"{task} {scores['acc']:.0%}" for task, scores in tasks.items() if "acc" in scores]
    return ", ".join(parts)


def _seen(
    study: Study,
    states: Sequence[RoundState],
    measured: Measured | None,
    records: Sequence[Sequence[Record]],
) -> RoundSeen:
    """What the guard of a trajectory checks after its latest round."""
    changes = states[-1].changes
    weights = {name: study.model.weight(name) for name in changes}
    earlier = states[-2].changes if len(states) > 1 else None
    change, total = relative_norm(changes, weights, earlier), relative_norm(changes, weights)
    if measured is None:
        return RoundSeen(change, total)
    first = summarise(measured["cases"][: len(records[0])])
    return RoundSeen(change, total, measured["perplexity"], first.get("score"))


def _by_round(measured: Measured, records: Sequence[Sequence[Record]]) -> list[dict[str, Any]]:
    """The metrics of the edits of each round, in the order of the rounds."""
    rows: list[dict[str, Any]] = []
    start = 0
    while start < len(measured["cases"]):
        end = start + len(records[len(rows)])
        rows.append(dict(summarise(measured["cases"][start:end])))
        start = end
    return rows


def _distances(
    states: Mapping[Trajectory, Sequence[RoundState]],
) -> dict[str, list[float]]:
    """By trajectory and round, the round's update against that of pooled editing.

    The largest over layers of ``|D - D_GLOBAL| / |D_GLOBAL|``; absent for trajectories without a
    pooled one of the same ``beta``, or without any pooled one if there is a single ``beta``.
    """
    pooled = [trajectory for trajectory in states if trajectory.method == POOLED]
    distances = {}
    for trajectory, own in states.items():
        references = (
            pooled if len(pooled) == 1 else [p for p in pooled if p.beta == trajectory.beta]
        )
        if references:
            theirs = states[references[0]]
            distances[trajectory.name] = [_apart(own, theirs, number) for number in range(len(own))]
    return distances


def _distances_from_pooled(
    study: Study, states: Mapping[Trajectory, Sequence[RoundState]]
) -> dict[str, list[float | None]]:
    """By trajectory and round, the distance from the pooled edit on the same model."""
    return {
        trajectory.name: [
            trajectory.about(study, state.finished)["distance_from_pooled"] for state in own
        ]
        for trajectory, own in states.items()
        if trajectory.against_pooled
    }


def _apart(own: Sequence[RoundState], theirs: Sequence[RoundState], number: int) -> float:
    ours, reference = _round_update(own, number), _round_update(theirs, number)
    return max(relative_distance(ours[name], reference[name]) for name in reference)


def _round_update(states: Sequence[RoundState], number: int) -> dict[str, LowRankUpdate]:
    """The change that one round added."""
    changes = states[number].changes
    if number == 0:
        return dict(changes)
    earlier = states[number - 1].changes
    return {
        name: LowRankUpdate.from_dense(change.dense() - earlier[name].dense())
        for name, change in changes.items()
    }
