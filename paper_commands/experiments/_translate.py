"""What the paper's commands mean here: their flags become the settings of our studies."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from collabedit.cli.run.showing import show_run
from collabedit.editors import Hyperparameters, preset_hyperparameters, preset_names
from collabedit.errors import CollabEditError, InputError, UnknownNameError
from collabedit.experiments import (
    AugmentationSettings,
    ConflictSettings,
    ForgettingSettings,
    MultiRoundSettings,
    Run,
    SingleRoundSettings,
    StudySettings,
    augmentation,
    conflict,
    forgetting,
    multi_round,
    single_round,
)
from collabedit.merging import resolve_method
from collabedit.messages import Schedule
from collabedit.progress import say
from collabedit.reporting.results import PapersResult, RunResult
from collabedit.reporting.tables import console, tables_of
from experiments._flags import read_flags

__all__ = ["main", "translate"]

_RESULTS = Path("results")
_DATA = Path("data")

_EDITORS = ("MEMIT",)

#: Our data sets by the paper's names, with the paper's files, which are used where they are.
_DATASETS = {
    "mcf": ("multi_counterfact", "multi_counterfact.json"),
    "cf": ("counterfact", "counterfact.json"),
    "zsre": ("zsre", "zsre_mend_eval.json"),
    "mcf_conflict": ("multi_counterfact", "multi_counterfact.json"),
}
_CONFLICTS = "multi-counterfact-conflict.json"

#: Names of merge methods that some of the paper's scripts use instead.
_METHODS = {"task": "TA", "average": "SA", "nondestructive": "CollabEdit"}

_MODES = {
    "whetherConflict": "whether-conflict",
    "Performance_A": "performance-a",
    "Performance_B": "performance-b",
    "Performance_[A+B]": "performance-a+b",
    "single_B": "single-b",
}
_CONFLICT_CLIENTS = 10


def main(command: str, arguments: Sequence[str] | None = None) -> None:
    """Run one of the paper's commands; errors become one line and exit status 2.

    Args:
        command: its name.
        arguments: its flags; by default, those of the process.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        if command == "CollabEdit_summarize":
            _summarize(read_flags(command, arguments))
        else:
            study, settings = translate(command, arguments)
            say(f"records: {settings.dataset}")
            show_run(study(settings, _RESULTS))
    except CollabEditError as error:
        print(f"collabedit: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("collabedit: interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def translate(
    command: str, arguments: Sequence[str] | None = None
) -> tuple[Callable[[Any, Path], Run], StudySettings]:
    """The study that a command runs, and its settings.

    Args:
        command: its name.
        arguments: its flags; by default, those of the process.

    Raises:
        InputError: when a flag cannot be read, or its value is not known here.
    """
    study, settings = _STUDIES[command]
    return study, settings(read_flags(command, arguments))


def _single_round(flags: Namespace) -> StudySettings:
    edits = flags.num_edits_per_client_per_round
    return SingleRoundSettings.checked(**_measured(flags, flags.num_clients, edits))


def _multi_round(flags: Namespace) -> StudySettings:
    edits, rounds = flags.num_edits_per_client_per_round, flags.num_rounds
    settings = _measured(flags, flags.num_clients, edits, flags.num_clients * edits * rounds)
    beta = (settings["hyperparameters"].prior_weight,)
    return MultiRoundSettings.checked(**settings, rounds=rounds, beta=beta)


def _multiround(flags: Namespace) -> StudySettings:
    return _forgetting(flags, flags.num_clients, dynamic=False)


def _c_1(flags: Namespace) -> StudySettings:
    return _forgetting(flags, 1, dynamic=True)


def _forgetting(flags: Namespace, clients: int, *, dynamic: bool) -> StudySettings:
    """As many edits after the target set as in it, one at a time; measured before and after."""
    edits = clients * flags.num_edits
    settings = _measured(flags, clients, flags.num_edits, 2 * edits)
    beta = settings["hyperparameters"].prior_weight if dynamic else 0.0
    return ForgettingSettings.checked(
        **settings, further=edits, batch=1, beta=(beta,), measure_every=edits
    )


def _conflict(flags: Namespace) -> StudySettings:
    mode = flags.conflict_exp_type.replace("Perfomrance", "Performance")  # as in the script's help
    if mode not in _MODES:
        raise UnknownNameError("conflict experiment", mode, _MODES)
    edits = flags.num_edits
    clients = max(n for n in range(1, _CONFLICT_CLIENTS + 1) if edits % n == 0)
    conflicts = _DATA / _CONFLICTS
    given = flags.ds_name == "mcf_conflict" and conflicts.is_file()
    return ConflictSettings.checked(
        **_measured(flags, clients, edits // clients),
        conflicts=str(conflicts) if given else None,
        modes=(_MODES[mode],),
    )


def _augmentation(flags: Namespace) -> StudySettings:
    return AugmentationSettings.checked(
        **_edited(flags, 1, flags.num_edits),
        **_round_edits(flags.model_name, flags.mode),
        merge=("GLOBAL",),
    )


def _edited(
    flags: Namespace, clients: int, edits: int, records: int | None = None
) -> dict[str, Any]:
    """The settings that all studies share.

    Args:
        flags: of the command.
        clients: number of them.
        edits: of each client.
        records: how many the study needs; the paper's code takes the first ones.
    """
    if flags.alg_name not in _EDITORS:
        raise UnknownNameError("editor", flags.alg_name, _EDITORS)
    if flags.continue_from_run is not None:
        say("--continue_from_run: an interrupted run with these settings is continued by itself")
    needed = clients * edits if records is None else records
    return {
        "model": flags.model_name,
        "parties": clients,
        "edits_per_party": edits,
        "limit": min(needed, flags.dataset_size_limit or needed),
        "schedule": Schedule.ONE_SHOT,
        "hyperparameters": _hyperparameters(flags.hparams_fname, flags.alg_name),
        "device": _device(flags.device),
    }


def _measured(
    flags: Namespace, clients: int, edits: int, records: int | None = None
) -> dict[str, Any]:
    """The settings of the studies that merge by a method and measure CounterFact or zsRE."""
    method = flags.merging_method
    return {
        **_edited(flags, clients, edits, records),
        "dataset": _dataset(flags.ds_name),
        "merge": (resolve_method(_METHODS.get(method.lower(), method)).name,),
        "generations": not flags.skip_generation_tests and flags.generation_test_interval != -1,
    }


def _hyperparameters(name: str, editor: str) -> Hyperparameters:
    """Those of a file in the paper's place, of any file, or of a preset by its file name there."""
    for path in (Path("hparams") / editor / name, Path(name)):
        if path.is_file():
            return Hyperparameters.from_file(path)
    presets = {f"{preset.replace('/', '_')}.json": preset for preset in preset_names()}
    if name not in presets:
        raise InputError(
            f"no hyper-parameters {name!r}: there is no such file, here or in hparams/{editor}; "
            f"built in are: {', '.join(presets)}"
        )
    return preset_hyperparameters(presets[name])


def _dataset(name: str) -> str:
    """The paper's file where it is in ``data``, else our data set of that name or any other."""
    if name not in _DATASETS:
        return name
    named, file = _DATASETS[name]
    return str(_DATA / file) if (_DATA / file).is_file() else named


def _round_edits(model: str, mode: str) -> dict[str, Any]:
    """The records to augment, and how: those in the paper's places, else MultiCounterFact.

    The paper's code adds the further true objects of its records; CounterFact's have none, and are
    augmented by their wordings.
    """
    folders = (_DATA / ("GPT2-XL" if "xl" in model.lower() else "GPT-J"), _DATA)
    names = (f"{mode}_conflict_1000_p1.json", f"{mode}.json")
    for path in (folder / name for folder in folders for name in names):
        if path.is_file():
            wordings = path.with_name("round_prompts.json")
            return {
                "dataset": str(path),
                "wordings": wordings if wordings.is_file() else None,
                "augment_prompts": False,
            }
    if mode != "easy":
        raise InputError(f"--mode {mode}: there is no {mode}.json in {folders[0]} or {_DATA}")
    return {"dataset": _dataset("mcf")}


def _device(name: str | None) -> str | None:
    if name == "cuda" and not torch.cuda.is_available():
        say("--device cuda: no GPU that torch can use was found; the CPU is used")
        return "cpu"
    return name


_STUDIES: dict[str, tuple[Callable[[Any, Path], Run], Callable[[Namespace], StudySettings]]] = {
    "merging_singleRound": (single_round, _single_round),
    "merging_multiRound": (multi_round, _multi_round),
    "multiround": (forgetting, _multiround),
    "C_1": (forgetting, _c_1),
    "Conflict": (conflict, _conflict),
    "evaluate_augmentation": (augmentation, _augmentation),
}


def _summarize(flags: Namespace) -> None:
    """Print the tables of runs; without --runs, those that cannot be read are passed over."""
    category = flags.edit_category
    if category == "collabrative_edit":  # so it is spelled in the paper's README
        category = "collaborative_edit"
    shown = 0
    for folder in _folders(_RESULTS / flags.dir_name, flags.runs):
        try:
            result = _result(folder, category, flags.first_n_cases)
        except InputError as error:
            if flags.runs is not None:
                raise
            say(f"collabedit: passed over {error}")
            continue
        for table in tables_of(result, str(folder)):
            console().print(table.rich())
        shown += 1
    if not shown:
        raise InputError(f"no finished run in {_RESULTS / flags.dir_name}")


def _folders(parent: Path, runs: str | None) -> list[Path]:
    known = sorted(path for path in parent.glob("*") if path.is_dir())
    if runs is None:
        return known
    names = [name.strip() for name in runs.split(",")]
    missing = [name for name in names if parent / name not in known]
    if missing:
        there = ", ".join(path.name for path in known) or "none"
        raise InputError(f"no run {missing[0]!r} in {parent}; there are: {there}")
    return [parent / name for name in names]


def _result(folder: Path, category: str | None, first: int | None) -> RunResult:
    if first is None and (folder / "summary.json").is_file():
        return RunResult.load(folder)
    return PapersResult.of_files(folder, category, first)
