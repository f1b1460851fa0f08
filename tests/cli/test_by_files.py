"""The commands by files, as three parties and a coordinator would use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from collabedit.algebra import relative_distance
from collabedit.merging import merge_methods
from collabedit.messages import Delta
from tests.cli.commands import collabedit, fails
from tests.conftest import CORPUS, EXACT, make_model, save_model
from tests.editing.facts import REQUESTS

#: Each party finds its targets in its own batches, and the pooled edit in others.
pytestmark = pytest.mark.usefixtures("exact_module")


def write_requests(path: Path, start: int, end: int) -> Path:
    lines = [
        json.dumps({"prompt": r.prompt, "subject": r.subject, "target": r.target_new})
        for r in REQUESTS[start:end]
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its covariance, settings, contexts and three parties' requests."""
    folder = tmp_path_factory.mktemp("round")
    model = make_model("gpt2")
    save_model(model, folder / "model")
    (folder / "corpus.txt").write_text("\n\n".join(CORPUS * 40), encoding="utf-8")
    (folder / "hparams.json").write_text(
        json.dumps(
            {
                "layers": [1, 2],
                "v_lr": 0.2,
                "v_num_grad_steps": 4,
                "v_weight_decay": 0.5,
                "kl_factor": 0.0625,
                "clamp_norm_factor": 0.75,
                "mom2_update_weight": 5,
                "fact_token": "subject_last",
            }
        )
    )
    (folder / "contexts.json").write_text(json.dumps([["{}"], ["It is so. {}"]]))
    for index, (start, end) in enumerate(((0, 1), (1, 4), (4, 6))):
        write_requests(folder / f"party{index}.jsonl", start, end)
    write_requests(folder / "all.jsonl", 0, 6)
    collabedit(
        "stats",
        "collect",
        "--model",
        folder / "model",
        "--layers",
        "1-2",
        "--corpus",
        folder / "corpus.txt",
        "--tokens",
        2000,
        "-o",
        folder / "cov.safetensors",
    )
    return folder


def new_round(work: Path, schedule: str, name: str) -> Path:
    path = work / name
    collabedit(
        "round",
        "new",
        "--model",
        work / "model",
        "--schedule",
        schedule,
        "-o",
        path,
        "--hparams",
        work / "hparams.json",
        "--contexts",
        work / "contexts.json",
    )
    return path


def exchange(work: Path, config: Path, parties: list[str], so_far: list[object]) -> Path:
    updates = []
    for party in parties:
        updates.append(work / f"{party}.update.safetensors")
        collabedit(
            "contribute",
            "--round",
            config,
            "--requests",
            work / f"{party}.jsonl",
            "-o",
            updates[-1],
            *so_far,
        )
    out = work / f"{config.stem}-{'-'.join(parties)}.delta.safetensors"
    collabedit(
        "merge",
        *updates,
        "--round",
        config,
        "--covariance",
        work / "cov.safetensors",
        "-o",
        out,
        *so_far,
    )
    return out


@pytest.mark.parametrize(("schedule", "exchanges"), [("sequential", 2), ("one-shot", 1)])
def test_three_parties_get_the_pooled_edit(
    work: Path, schedule: str, exchanges: int, tmp_path: Path
) -> None:
    config = new_round(work, schedule, f"{schedule}.json")
    deltas = {}
    for parties in (["party0", "party1", "party2"], ["all"]):
        so_far: list[object] = []
        for _ in range(exchanges):
            out = exchange(work, config, parties, so_far)
            so_far = ["--delta", out]
        deltas[len(parties)] = Delta.load(out)
    assert deltas[3].metadata.complete
    assert deltas[3].metadata.parties == 3
    for name, expected in deltas[1].changes.items():
        assert relative_distance(deltas[3].changes[name], expected) < EXACT

    collabedit("apply", out, "-o", tmp_path / "edited")
    before = transformers.AutoModelForCausalLM.from_pretrained(work / "model")
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "edited")
    assert tokenizer("Rome").input_ids
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == set(deltas[1].changes)


def test_editing_alone_gives_the_delta_of_the_round(work: Path, tmp_path: Path) -> None:
    common = [
        "--model",
        work / "model",
        "--requests",
        work / "all.jsonl",
        "--covariance",
        work / "cov.safetensors",
        "--hparams",
        work / "hparams.json",
    ]
    collabedit("edit", *common, "-o", tmp_path / "delta.safetensors")
    collabedit("edit", *common, "-o", tmp_path / "direct")
    collabedit("apply", tmp_path / "delta.safetensors", "-o", tmp_path / "applied")
    ids = torch.tensor([[5, 6, 7]])
    logits = [
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)(ids).logits
        for name in ("direct", "applied")
    ]
    torch.testing.assert_close(*logits)
    facts = json.loads((tmp_path / "direct" / "collabedit.json").read_text())
    assert facts["edits"] == 6
    assert "France" not in json.dumps(facts)


def test_finished_deltas_are_averaged(work: Path, tmp_path: Path) -> None:
    deltas = []
    for party in ("party0", "party1"):
        deltas.append(tmp_path / f"{party}.safetensors")
        collabedit(
            "edit",
            "--model",
            work / "model",
            "--requests",
            work / f"{party}.jsonl",
            "--covariance",
            work / "cov.safetensors",
            "--hparams",
            work / "hparams.json",
            "-o",
            deltas[-1],
        )
    collabedit("merge", *deltas, "--method", "sa", "-o", tmp_path / "sa.safetensors")
    collabedit(
        "merge",
        *deltas,
        "--method",
        "TIES",
        "--option",
        "keep=0.5",
        "-o",
        tmp_path / "ties.safetensors",
    )
    merged, own = Delta.load(tmp_path / "sa.safetensors"), [Delta.load(path) for path in deltas]
    for name, change in merged.changes.items():
        mean = (own[0].changes[name].dense() + own[1].changes[name].dense()) / 2
        torch.testing.assert_close(change.dense(), mean)
    assert Delta.load(tmp_path / "ties.safetensors").metadata.options["keep"] == 0.5
    weighted = tmp_path / "wsa.safetensors"
    collabedit("merge", *deltas, "--method", "wsa", "--weights", "3,0.5", "-o", weighted)
    merged = Delta.load(weighted)
    assert merged.metadata.party_weights == (3.0, 0.5)
    for name, change in merged.changes.items():
        mean = (3 * own[0].changes[name].dense() + 0.5 * own[1].changes[name].dense()) / 3.5
        torch.testing.assert_close(change.dense(), mean)


def test_updates_are_averaged_by_weights(work: Path, tmp_path: Path) -> None:
    """The weights 3 and 1 give a weighted mean of the parties' own updates."""
    config = new_round(work, "one-shot", "weighted.json")
    shared = ("--round", config, "--covariance", work / "cov.safetensors")
    updates, own = [], []
    for party in ("party0", "party1"):
        updates.append(tmp_path / f"{party}.safetensors")
        requests = ("--requests", work / f"{party}.jsonl")
        collabedit("contribute", "--round", config, *requests, "-o", updates[-1])
        alone = tmp_path / f"{party}.delta"
        collabedit("merge", updates[-1], *shared, "--method", "GLOBAL", "-o", alone)
        own.append(Delta.load(alone))
    out = tmp_path / "wsa.safetensors"
    collabedit("merge", *updates, *shared, "--method", "WSA", "--weights", "3,1", "-o", out)
    for name, change in Delta.load(out).changes.items():
        mean = (3 * own[0].changes[name].dense() + own[1].changes[name].dense()) / 4
        torch.testing.assert_close(change.dense(), mean)


# What may go wrong


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "The capital is", "subject": "France", "target": "Rome"}, "no '{}'"),
        (
            {"prompt": "The capital of {} is", "subject": " ", "target": "Rome"},
            "'subject' is empty",
        ),
        ({"prompt": "The capital of {} is", "subject": "France"}, "'target' is missing"),
    ],
)
def test_bad_requests_name_the_file_the_record_and_the_remedy(
    work: Path, tmp_path: Path, record: dict[str, str], message: str
) -> None:
    config = new_round(work, "one-shot", "bad.json")
    path = tmp_path / "requests.json"
    path.write_text(json.dumps([record]))
    error = fails("contribute", "--round", config, "-r", path, "-o", tmp_path / "out.safetensors")
    assert message in error
    assert f"{path}, record 0" in error
    assert not (tmp_path / "out.safetensors").exists()


def test_duplicate_case_ids_are_refused(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "requests.json"
    record = {"case_id": 4, "prompt": "{} is", "subject": "France", "target": "Rome"}
    path.write_text(json.dumps([record, record]))
    error = fails("edit", "--model", work / "model", "-r", path, "-o", tmp_path / "out")
    assert "case_id 4 is already used by record 0" in error


def test_unreadable_files_are_named(work: Path, tmp_path: Path) -> None:
    config = new_round(work, "one-shot", "unreadable.json")
    missing = tmp_path / "nowhere.json"
    assert str(missing) in fails(
        "contribute", "--round", config, "-r", missing, "-o", tmp_path / "o"
    )
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "not valid JSON" in fails(
        "contribute", "--round", config, "-r", broken, "-o", tmp_path / "o"
    )
    assert str(missing) in fails(
        "contribute", "--round", missing, "-r", broken, "-o", tmp_path / "o"
    )


def test_a_covariance_of_other_layers_is_refused(work: Path, tmp_path: Path) -> None:
    config = new_round(work, "one-shot", "layers.json")
    collabedit(
        "contribute",
        "--round",
        config,
        "-r",
        work / "party0.jsonl",
        "-o",
        tmp_path / "u.safetensors",
    )
    collabedit(
        "stats",
        "collect",
        "--model",
        work / "model",
        "--layers",
        "0",
        "--tokens",
        500,
        "--corpus",
        work / "corpus.txt",
        "-o",
        tmp_path / "other.safetensors",
    )
    error = fails(
        "merge",
        tmp_path / "u.safetensors",
        "--round",
        config,
        "-C",
        tmp_path / "other.safetensors",
        "-o",
        tmp_path / "d.safetensors",
    )
    assert "layers 1,2 are needed" in error
    assert not (tmp_path / "d.safetensors").exists()


def test_updates_of_different_rounds_are_refused(work: Path, tmp_path: Path) -> None:
    first = new_round(work, "one-shot", "first.json")
    second = work / "second.json"
    collabedit(
        "round",
        "new",
        "--model",
        work / "model",
        "--schedule",
        "one-shot",
        "-o",
        second,
        "--hparams",
        work / "hparams.json",
        "--contexts",
        work / "contexts.json",
        "--seed",
        1,
    )
    updates = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for config, party, out in zip((first, second), ("party0", "party1"), updates, strict=True):
        collabedit("contribute", "--round", config, "-r", work / f"{party}.jsonl", "-o", out)
    error = fails(
        "merge",
        *updates,
        "--round",
        first,
        "-C",
        work / "cov.safetensors",
        "-o",
        tmp_path / "d.safetensors",
    )
    assert str(updates[1]) in error
    assert "another round" in error


def test_an_unfinished_delta_is_not_applied(work: Path, tmp_path: Path) -> None:
    config = new_round(work, "sequential", "unfinished.json")
    partial = exchange(work, config, ["party0"], [])
    error = fails("apply", partial, "-o", tmp_path / "edited")
    assert "unfinished round" in error
    assert not (tmp_path / "edited").exists()


def test_a_directory_with_files_is_not_overwritten(work: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    error = fails("edit", "--model", work / "model", "-r", work / "all.jsonl", "-o", tmp_path)
    assert "--overwrite" in error
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--method", "COLLAB"],
            "unknown merge method 'COLLAB'; choose one of: "
            + ", ".join(method.name for method in merge_methods()),
        ),
        (["--option", "keep=much", "--method", "ties"], "keep must be of type float"),
        (["--option", "kept=1", "--method", "ties"], "TIES has no option 'kept'"),
        (["--weights", "3,1", "--method", "wsa"], "parties: 1, weights: 2"),
        (["--weights", "0", "--method", "wsa"], "WSA: weights must be positive and finite"),
        (["--weights", "1;2", "--method", "wsa"], "--weights: cannot read '1;2'"),
        (["--weights", "1"], "CollabEdit does not weight the parties; methods that do: WSA"),
    ],
)
def test_merge_options_are_checked(
    work: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    error = fails("merge", work / "cov.safetensors", "-o", tmp_path / "d.safetensors", *arguments)
    assert message in error


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    error = fails("round", "new", "--model", tmp_path / "nowhere", "-o", tmp_path / "round.json")
    assert "nowhere" in error
    assert not (tmp_path / "round.json").exists()
