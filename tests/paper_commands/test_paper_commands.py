"""The paper's commands: what their flags mean here, that each runs, and what they refuse."""

from __future__ import annotations

import json
import runpy
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from collabedit.datasets import load_round_edits
from collabedit.editors import Hyperparameters
from collabedit.errors import InputError, UnknownNameError
from collabedit.experiments import (
    AugmentationSettings,
    ConflictSettings,
    ForgettingSettings,
    MultiRoundSettings,
    SingleRoundSettings,
)
from collabedit.messages import Schedule
from experiments._flags import COMMANDS
from experiments._translate import translate
from tests.conftest import make_model, save_model

pytestmark = pytest.mark.slow  # all together

PRESET_FLAGS = "--alg_name=MEMIT --model_name=gpt2-xl --hparams_fname=gpt2-xl.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(make_model("llama"), tmp_path_factory.mktemp("paper") / "model")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where the paper's code would have data/, hparams/ and results/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def furnished(here: Path, model: Path) -> Path:
    """The current folder with the paper's files: twenty records, their conflicts, the settings."""
    text = resources.files("collabedit.datasets").joinpath("worldfacts.json").read_text("utf-8")
    records = json.loads(text)[:20]
    write(here / "data" / "multi_counterfact.json", records)
    others = json.loads(json.dumps(records))
    for record in others:
        record["requested_rewrite"]["target_new"]["str"] = "chess"
    write(here / "data" / "multi-counterfact-conflict.json", others)
    edits = [round_edit(place, record["requested_rewrite"]) for place, record in enumerate(records)]
    write(here / "data" / "GPT-J" / "easy_conflict_1000_p1.json", edits)
    write(here / "data" / "GPT-J" / "round_prompts.json", {"P641": ["{} plays", "{} loves"]})
    settings = {"layers": [1, 2], "mom2_update_weight": 5, "v_num_grad_steps": 3}
    write(here / "hparams" / "MEMIT" / "tiny.json", settings)
    return here


def round_edit(place: int, rewrite: dict[str, Any]) -> dict[str, Any]:
    return {
        "edit": {
            "relation": {"id": rewrite["relation_id"], "prompt": rewrite["prompt"]},
            "subject": {"label": rewrite["subject"]},
            "object": {"label": rewrite["target_true"]["str"]},
            "new_object": rewrite["target_new"]["str"],
            "conflict_object": {"label": "chess"},
        },
        "true_objects": [{"label": rewrite["target_true"]["str"]}, {"label": "sport"}],
    }


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def run(command: str, *flags: object) -> int:
    """``python -m experiments.COMMAND FLAGS`` in this process; returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [command, *map(str, flags)])
        try:
            runpy.run_module(f"experiments.{command}", run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def run_tiny(model: Path, command: str, *flags: object) -> dict[str, Any]:
    """Run a command on the tiny model; returns the summary of the run."""
    common = ("--alg_name=MEMIT", f"--model_name={model}", "--hparams_fname=tiny.json")
    assert run(command, *common, *flags) == 0
    last = max(Path("results/MEMIT").glob("run_*"))
    summary: dict[str, Any] = json.loads((last / "summary.json").read_text())
    return summary


def case_ids(folder: Path) -> set[int]:
    return {int(path.stem.removeprefix("case_")) for path in folder.glob("case_*.json")}


# What the flags mean


def settings_of(command: str, flags: str) -> Any:
    return translate(command, flags.split())[1]


def test_a_single_round_as_the_readme_has_it(here: Path) -> None:
    flags = (
        "--alg_name=MEMIT --model_name=EleutherAI/gpt-j-6B "
        "--hparams_fname=EleutherAI_gpt-j-6B.json --num_edits_per_client_per_round=500 "
        "--num_clients=10 --use_cache --merging_method=CollabEdit"
    )
    assert settings_of("merging_singleRound", flags) == SingleRoundSettings(
        model="EleutherAI/gpt-j-6B",
        dataset="multi_counterfact",
        parties=10,
        edits_per_party=500,
        limit=5000,
        merge=("CollabEdit",),
        schedule=Schedule.ONE_SHOT,
        hyperparameters=Hyperparameters(
            layers=(3, 4, 5, 6, 7, 8), prior_weight=15000, target_steps=25
        ),
        generations=True,
        seed=0,
    )


def test_several_rounds_weigh_earlier_keys_with_lambda(here: Path) -> None:
    flags = f"{PRESET_FLAGS} --num_edits_per_client_per_round=100 --num_clients=10 --num_rounds=5"
    settings = settings_of("merging_multiRound", flags)
    assert isinstance(settings, MultiRoundSettings)
    assert (settings.parties, settings.edits_per_party, settings.rounds) == (10, 100, 5)
    assert settings.limit == 5000
    assert settings.beta == (20000,)
    assert settings.merge == ("GLOBAL",)


@pytest.mark.parametrize(
    ("command", "flags", "clients", "beta"),
    [
        ("multiround", "--num_edits=30 --num_editRounds=7", 1, 0.0),
        ("multiround", "--num_edits_perClient_inSingleRound=10 --num_clients=3", 3, 0.0),
        ("C_1", "--num_edits=30", 1, 20000.0),
    ],
)
def test_forgetting_measures_before_and_after(
    here: Path, command: str, flags: str, clients: int, beta: float
) -> None:
    settings = settings_of(command, f"{PRESET_FLAGS} {flags}")
    assert isinstance(settings, ForgettingSettings)
    assert (settings.parties, settings.edits_per_party) == (clients, 30 // clients)
    assert (settings.further, settings.batch, settings.measure_every) == (30, 1, 30)
    assert settings.limit == 60
    assert settings.beta == (beta,)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("whetherConflict", "whether-conflict"),
        ("Performance_A", "performance-a"),
        ("Performance_B", "performance-b"),
        ("Performance_[A+B]", "performance-a+b"),
        ("Perfomrance_[A+B]", "performance-a+b"),
        ("single_B", "single-b"),
    ],
)
def test_conflict_experiments(here: Path, name: str, mode: str) -> None:
    settings = settings_of(
        "Conflict",
        f"{PRESET_FLAGS} --ds_name=mcf_conflict --conflict_exp_type={name} --num_edits=2500 "
        "--dataset_size_limit 2500",
    )
    assert isinstance(settings, ConflictSettings)
    assert settings.modes == (mode,)
    assert (settings.parties, settings.edits_per_party, settings.limit) == (10, 250, 2500)
    assert settings.conflicts is None


@pytest.mark.parametrize(("edits", "clients"), [(1, 1), (20, 10), (7, 7), (26, 2), (24, 8)])
def test_conflicting_edits_are_dealt_evenly_to_ten_at_most(
    here: Path, edits: int, clients: int
) -> None:
    flags = f"{PRESET_FLAGS} --conflict_exp_type=single_B --num_edits={edits}"
    settings = settings_of("Conflict", flags)
    assert settings.parties == clients
    assert settings.parties * settings.edits_per_party == edits


def test_augmentation_without_the_papers_files(here: Path) -> None:
    flags = f"{PRESET_FLAGS} --num_edits 1000 --dataset_size_limit 1000 --mode=easy"
    settings = settings_of("evaluate_augmentation", flags)
    assert isinstance(settings, AugmentationSettings)
    assert (settings.parties, settings.edits_per_party, settings.limit) == (1, 1000, 1000)
    assert (settings.merge, settings.dataset) == (("GLOBAL",), "multi_counterfact")
    assert settings.augment_prompts
    assert not settings.generations


@pytest.mark.parametrize(
    ("model", "places", "expected"),
    [
        ("gpt2-xl", ["GPT2-XL/easy.json", "GPT-J/easy.json"], "GPT2-XL/easy.json"),
        ("EleutherAI/gpt-j-6B", ["GPT2-XL/easy.json", "GPT-J/easy.json"], "GPT-J/easy.json"),
        ("smollm2-135m", ["GPT2-XL/easy.json", "easy.json"], "easy.json"),
        (
            "gpt2-xl",
            ["GPT2-XL/easy_conflict_1000_p1.json", "GPT2-XL/easy.json"],
            "GPT2-XL/easy_conflict_1000_p1.json",
        ),
    ],
)
def test_the_places_of_the_records_to_augment(
    here: Path, model: str, places: list[str], expected: str
) -> None:
    for place in places:
        write(here / "data" / place, [])
    prompts = here / "data" / Path(expected).parent / "round_prompts.json"
    flags = f"--alg_name=MEMIT --model_name={model} --hparams_fname=gpt2-xl.json"
    settings = settings_of("evaluate_augmentation", flags)
    assert settings.dataset == str(Path("data") / expected)
    assert settings.wordings is None
    assert not settings.augment_prompts
    write(prompts, {})
    assert settings_of("evaluate_augmentation", flags).wordings == prompts.relative_to(here)


@pytest.mark.parametrize(
    ("name", "ours", "file"),
    [
        ("mcf", "multi_counterfact", "multi_counterfact.json"),
        ("mcf_conflict", "multi_counterfact", "multi_counterfact.json"),
        ("cf", "counterfact", "counterfact.json"),
        ("zsre", "zsre", "zsre_mend_eval.json"),
        ("worldfacts", "worldfacts", None),
        ("own.jsonl", "own.jsonl", None),
    ],
)
def test_data_sets_by_the_papers_names(here: Path, name: str, ours: str, file: str | None) -> None:
    flags = f"{PRESET_FLAGS} --ds_name={name}"
    assert settings_of("merging_singleRound", flags).dataset == ours
    if file:
        write(here / "data" / file, [])
        expected = str(Path("data") / file)
        assert settings_of("merging_singleRound", flags).dataset == expected


def test_conflicts_come_from_the_papers_file(furnished: Path) -> None:
    flags = f"{PRESET_FLAGS} --conflict_exp_type=single_B"
    assert settings_of("Conflict", f"{flags} --ds_name=mcf").conflicts is None
    expected = str(Path("data") / "multi-counterfact-conflict.json")
    assert settings_of("Conflict", f"{flags} --ds_name=mcf_conflict").conflicts == expected


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("global", "GLOBAL"),
        ("sa", "SA"),
        ("TA", "TA"),
        ("ties", "TIES"),
        ("COLLABEDIT", "CollabEdit"),
        ("average", "SA"),
        ("task", "TA"),
        ("Nondestructive", "CollabEdit"),
    ],
)
def test_merge_methods_in_any_case_and_by_the_scripts_other_names(
    here: Path, name: str, method: str
) -> None:
    flags = f"{PRESET_FLAGS} --merging_method={name}"
    assert settings_of("merging_singleRound", flags).merge == (method,)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", True),
        ("--skip_generation_tests", False),
        ("--generation_test_interval=-1", False),
        ("--generation_test_interval=10", True),
    ],
)
def test_generated_text_is_measured_unless_skipped(here: Path, flags: str, expected: bool) -> None:
    settings = settings_of("merging_singleRound", f"{PRESET_FLAGS} {flags}")
    assert settings.generations is expected


def test_hyperparameters_of_presets_and_files(here: Path) -> None:
    def layers(name: str) -> tuple[int, ...]:
        flags = f"--alg_name=MEMIT --model_name=gpt2-xl --hparams_fname={name}"
        found: tuple[int, ...] = settings_of("C_1", flags).hyperparameters.layers
        return found

    assert layers("smollm2-135m.json") == (5, 6, 7, 8, 9)
    assert layers("gpt2-xl.json") == (13, 14, 15, 16, 17)
    write(here / "gpt2-xl.json", {"layers": [2]})
    assert layers("gpt2-xl.json") == (2,)
    write(here / "hparams" / "MEMIT" / "gpt2-xl.json", {"layers": [1]})
    assert layers("gpt2-xl.json") == (1,)
    assert layers(str(here / "gpt2-xl.json")) == (2,)


def test_a_smaller_limit_is_kept(here: Path) -> None:
    flags = f"{PRESET_FLAGS} --num_clients=2 --num_edits_per_client_per_round=3"
    assert settings_of("merging_singleRound", flags).limit == 6
    assert settings_of("merging_singleRound", f"{flags} --dataset_size_limit=4").limit == 4
    assert settings_of("merging_singleRound", f"{flags} --dataset_size_limit=99").limit == 6


def test_a_missing_gpu_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert settings_of("merging_singleRound", PRESET_FLAGS).device is None
    assert not capsys.readouterr().err
    assert settings_of("merging_singleRound", f"{PRESET_FLAGS} --device=cuda").device == "cpu"
    assert capsys.readouterr().err.startswith("--device cuda: no GPU")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert settings_of("merging_singleRound", f"{PRESET_FLAGS} --device=cuda").device == "cuda"


def test_flags_without_effect_are_accepted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--use_cache --conserve_memory --num_edits=3"
    assert settings_of("merging_singleRound", f"{PRESET_FLAGS} {flags}") == settings_of(
        "merging_singleRound", PRESET_FLAGS
    )
    settings_of("C_1", f"{PRESET_FLAGS} --continue_from_run=run_003")
    assert "continued by itself" in capsys.readouterr().err


# Runs


def test_a_single_round_runs(
    furnished: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--num_clients=2", "--num_edits_per_client_per_round=2", "--merging_method=collabedit")
    summary = run_tiny(model, "merging_singleRound", *flags)
    assert list(summary["methods"]) == ["CollabEdit"]
    assert summary["methods"]["CollabEdit"]["fluency"] > 0
    assert case_ids(furnished / "results" / "MEMIT" / "run_000") == {0, 1, 2, 3}
    out, err = capsys.readouterr()
    assert "records: data/multi_counterfact.json" in err
    assert "results/MEMIT/run_000" in out
    assert run("CollabEdit_summarize", "--dir_name=MEMIT", "--runs=run_000") == 0
    assert "CollabEdit" in capsys.readouterr().out


def test_several_rounds_run(furnished: Path, model: Path) -> None:
    flags = ("--num_clients=2", "--num_edits_per_client_per_round=1", "--num_rounds=2")
    summary = run_tiny(model, "merging_multiRound", *flags, "--skip_generation_tests")
    assert len(summary["rounds"]["GLOBAL"]) == 2
    assert summary["methods"]["GLOBAL"]["records"] == 4


@pytest.mark.parametrize("command", ["multiround", "C_1"])
def test_forgetting_runs(furnished: Path, model: Path, command: str) -> None:
    summary = run_tiny(model, command, "--num_edits=2", "--skip_generation_tests")
    assert [point["further_edits"] for point in summary["curves"]["GLOBAL"]] == [0, 2]
    assert summary["settings"]["beta"] == [0 if command == "multiround" else 5]


def test_conflicts_run(furnished: Path, model: Path) -> None:
    flags = ("--ds_name=mcf_conflict", "--num_edits=2", "--skip_generation_tests")
    summary = run_tiny(model, "Conflict", *flags, "--conflict_exp_type=Performance_[A+B]")
    assert list(summary["methods"]) == ["performance-a+b"]
    assert summary["methods"]["performance-a+b"]["records"] == 2


def test_augmentation_runs(furnished: Path, model: Path) -> None:
    flags = ("--num_edits=2", "--dataset_size_limit=2", "--mode=easy")
    summary = run_tiny(model, "evaluate_augmentation", *flags)
    assert {"before augmentation", "after augmentation"} <= set(summary["methods"])
    used = load_round_edits("data/GPT-J/easy_conflict_1000_p1.json")[:2]
    assert case_ids(furnished / "results" / "MEMIT" / "run_000") == {e.case_id for e in used}


# Refusals


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("merging_singleRound", "--alg_name=ROME", "unknown editor 'ROME'; choose one of: MEMIT"),
        ("C_1", "--alg_name=MEND", "unknown editor 'MEND'; choose one of: MEMIT"),
        ("multiround", "--merging_method=COLLAB", "unknown merge method 'COLLAB'"),
        ("multiround", "--num_edits=0", "'0' is not a whole number of 1 or more"),
        ("merging_multiRound", "--num_rounds=many", "'many' is not a whole number"),
        ("merging_singleRound", "--device=tpu", "'tpu'"),
        ("merging_singleRound", "--num_cats=3", "unrecognized arguments: --num_cats=3"),
        ("merging_singleRound", "--hparams_fname=none.json", "gpt2-xl.json"),
        ("merging_singleRound", "--ds_name=nothing", "unknown data set 'nothing'"),
        ("Conflict", "", "--conflict_exp_type"),
        ("Conflict", "--conflict_exp_type=global", "whetherConflict"),
        ("evaluate_augmentation", "--mode=hard", "no hard.json in data/GPT2-XL or data"),
        ("CollabEdit_summarize", "", "--dir_name"),
    ],
)
def test_refusals_are_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, flags: str, message: str
) -> None:
    given = [] if command == "CollabEdit_summarize" else PRESET_FLAGS.split()
    assert run(command, *given, *flags.split()) == 2
    out, err = capsys.readouterr()
    complaints = [line for line in err.splitlines() if not line.startswith("records: ")]
    assert len(complaints) == 1
    assert complaints[0].startswith("collabedit: ")
    assert message in complaints[0]
    assert not out
    assert not list(here.iterdir())


def test_required_flags_are_asked_for(here: Path) -> None:
    with pytest.raises(InputError, match="--alg_name, --model_name, --hparams_fname"):
        translate("merging_singleRound", [])
    with pytest.raises(UnknownNameError):
        translate("C_1", [*PRESET_FLAGS.split(), "--alg_name=FT"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_module_with_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--help") == 0
    assert f"usage: python -m experiments.{command}" in capsys.readouterr().out


# The summariser


def paper_case(folder: Path, number: int, part: str, new: float, true: float) -> None:
    """A result file of the paper's code, whose single rewrite prompt has these losses."""
    block = {"rewrite_prompts_probs": [{"target_new": new, "target_true": true}]}
    parts: dict[str, Any] = {"global_edit": {}, "collaborative_edit": {}}
    parts[part] = {"case_id": number, "num_edits": 10, "time": 1.5, "post": block}
    write(folder / f"10_edits-case_{number}.json", parts)


def summarised(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert run("CollabEdit_summarize", "--dir_name=MEMIT", *flags) == 0
    return capsys.readouterr().out


def test_runs_of_the_papers_code_are_summarised(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = here / "results" / "MEMIT"
    for number, new in enumerate([1.0, 1.0, 1.0, 9.0]):
        paper_case(runs / "run_000", number, "collaborative_edit", new, 5.0)
    paper_case(runs / "run_001", 0, "global_edit", 1.0, 5.0)
    write(runs / "run_000" / "params.json", {"layers": [1], "mom2_update_weight": 15000})

    table = summarised(capsys, "--edit_category=collabrative_edit", "--runs=run_000")
    assert "75.0" in table
    assert "unedited" not in table
    few = summarised(capsys, "--first_n_cases=3", "--runs=run_000")
    assert "100.0" in few
    both = summarised(capsys)
    assert "collaborative_edit" in both
    assert "global_edit" in both
    two = summarised(capsys, "--runs=run_001,run_000")
    assert two.index("run_001") < two.index("run_000")


def test_without_runs_what_cannot_be_read_is_passed_over(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = here / "results" / "MEMIT"
    paper_case(runs / "run_000", 0, "global_edit", 1.0, 5.0)
    write(runs / "run_001" / "params.json", {"versions": {}})
    assert run("CollabEdit_summarize", "--dir_name=MEMIT") == 0
    out, err = capsys.readouterr()
    assert "run_000" in out
    assert "run_001: the run is not finished" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--runs=run_007", "no run 'run_007' in results/MEMIT; there are: run_000"),
        ("--runs=run_000 --edit_category=global_edit", "which hold collaborative_edit"),
        ("--runs=run_000 --edit_category=both", "unknown edit category 'both'"),
        ("--runs=run_000 --first_n_cases=2", "below case 2"),
        ("--edit_category=global_edit", "no finished run in results/MEMIT"),
    ],
)
def test_summaries_that_cannot_be_had(
    here: Path, capsys: pytest.CaptureFixture[str], flags: str, message: str
) -> None:
    paper_case(here / "results" / "MEMIT" / "run_000", 5, "collaborative_edit", 1.0, 5.0)
    assert run("CollabEdit_summarize", "--dir_name=MEMIT", *flags.split()) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
