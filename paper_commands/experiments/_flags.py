"""The flags of the paper's commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from collabedit.errors import InputError

__all__ = ["COMMANDS", "read_flags"]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _flag(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


_NO_EFFECT = "Accepted, without effect: "

_EDITING = (
    _flag("--alg_name", required=True, help="The editor: MEMIT."),
    _flag("--model_name", required=True, help="A built-in name, a directory or a Hub id."),
    _flag(
        "--hparams_fname",
        required=True,
        help="A file in hparams/<alg_name> or elsewhere, or the name of a preset, such as "
        "gpt2-xl.json.",
    ),
    _flag("--dataset_size_limit", type=_count, help="Use only the first so many records."),
    _flag("--device", choices=("cuda", "cpu"), help="The GPU where there is one by default."),
    _flag(
        "--continue_from_run",
        help=_NO_EFFECT + "an interrupted run is found by its settings and continued.",
    ),
    _flag(
        "--use_cache",
        action="store_true",
        help=_NO_EFFECT + "targets are always cached, by everything that they depend on.",
    ),
    _flag(
        "--conserve_memory",
        action="store_true",
        help=_NO_EFFECT + "no second copy of the weights is made.",
    ),
)
_MEASURING = (
    _flag(
        "--ds_name",
        default="mcf",
        help="mcf, cf, zsre or mcf_conflict; or a data set of collabedit, or a file of records.",
    ),
    _flag(
        "--merging_method",
        default="global",
        help="GLOBAL, SA, TA, TIES or CollabEdit, in any case of letters.",
    ),
    _flag(
        "--skip_generation_tests",
        action="store_true",
        help="Do not measure generated text, which takes longer than all other measures.",
    ),
    _flag(
        "--generation_test_interval",
        type=int,
        default=1,
        help="-1 is --skip_generation_tests; any other number measures the texts of all records.",
    ),
)
_NUM_EDITS = _flag("--num_edits", type=_count, default=1, help="Number of edits.")
_PER_CLIENT = _flag(
    "--num_edits_per_client_per_round",
    type=_count,
    default=1,
    help="Edits of each client in a round.",
)
_CLIENTS = _flag("--num_clients", type=_count, default=10, help="Number of clients.")

COMMANDS = {
    "merging_singleRound": (
        "Many clients edit once; their edits are merged and measured.",
        (
            *_EDITING,
            *_MEASURING,
            _CLIENTS,
            _PER_CLIENT,
            _flag("--num_edits", type=int, help=_NO_EFFECT + "so it was."),
        ),
    ),
    "merging_multiRound": (
        "Many clients edit in several rounds.",
        (
            *_EDITING,
            *_MEASURING,
            _CLIENTS,
            _PER_CLIENT,
            _flag("--num_rounds", type=_count, default=1, help="Number of rounds."),
        ),
    ),
    "multiround": (
        "Further edits, one at a time, after a first set, under the static covariance.",
        (
            *_EDITING,
            *_MEASURING,
            _flag("--num_clients", type=_count, default=1, help="Number of clients."),
            _flag(
                "--num_edits_perClient_inSingleRound",
                "--num_edits",
                dest="num_edits",
                type=_count,
                default=1,
                help="Edits of each client in the first set.",
            ),
            _flag("--num_editRounds", type=int, help=_NO_EFFECT + "so it was."),
        ),
    ),
    "C_1": (
        "Further edits, one at a time, after a first set, under the dynamic covariance.",
        (*_EDITING, *_MEASURING, _NUM_EDITS),
    ),
    "Conflict": (
        "Edits A and conflicting ones B: what is left of which.",
        (
            *_EDITING,
            *_MEASURING,
            _NUM_EDITS,
            _flag(
                "--conflict_exp_type",
                required=True,
                help="whetherConflict (edit A, measure B), Performance_A (A, A), Performance_B "
                "(A and B, A), Performance_[A+B] (A and B, B) or single_B (B, B).",
            ),
        ),
    ),
    "evaluate_augmentation": (
        "Resolve conflicts by editing the preferred answer in many forms.",
        (
            *_EDITING,
            _NUM_EDITS,
            _flag("--mode", default="easy", help="Which of the paper's files: easy."),
        ),
    ),
    "CollabEdit_summarize": (
        "Show finished runs: of these commands, and of the paper's code.",
        (
            _flag("--dir_name", required=True, help="A folder in results, such as MEMIT."),
            _flag("--runs", help="Such as run_000,run_003; all by default."),
            _flag(
                "--edit_category",
                help="global_edit or collaborative_edit: which part of the files of the paper's "
                "code; the one that is filled by default.",
            ),
            _flag("--first_n_cases", type=_count, help="Only records with a smaller case id."),
        ),
    ),
}
"""What each command does, and its flags."""


class _Parser(argparse.ArgumentParser):
    """Complaints are errors as all others are: one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists the flags")


def read_flags(command: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The values of a command's flags.

    Args:
        command: one of :data:`COMMANDS`.
        arguments: by default, those of the process.

    Raises:
        InputError: when they cannot be read.
    """
    description, flags = COMMANDS[command]
    parser = _Parser(prog=f"python -m experiments.{command}", description=description)
    for names, options in flags:
        parser.add_argument(*names, **options)
    return parser.parse_args(arguments)
