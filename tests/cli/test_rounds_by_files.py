"""Several rounds by files: the state between them, and its dynamic covariance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collabedit.algebra import LowRankUpdate, relative_distance
from collabedit.editing import measure
from collabedit.messages import Contribution, Covariance, Delta, RoundConfig, RoundState
from collabedit.models import load_model
from collabedit.parties import Party
from tests.cli.commands import collabedit, fails
from tests.cli.test_by_files import work, write_requests  # noqa: F401
from tests.editing.facts import REQUESTS


def open_round(work: Path, out: Path, model: Path, *more: object) -> None:  # noqa: F811
    collabedit(
        *("round", "new", "--model", model, "--schedule", "one-shot", "-o", out),
        *("--hparams", work / "hparams.json", "--contexts", work / "contexts.json"),
        *("--dtype", "float64", *more),
    )


def contributions(folder: Path, round_file: Path, requests: dict[str, Path]) -> list[Path]:
    made = []
    for party, path in requests.items():
        made.append(folder / f"{round_file.stem}-{party}.safetensors")
        collabedit(
            *("contribute", "--round", round_file, "-r", path, "-o", made[-1], "--party", party)
        )
    return made


@pytest.fixture
def rounds(work: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A folder after the first round of two parties, the second round open."""
    first = {
        "hospital": write_requests(tmp_path / "h1.jsonl", 0, 2),
        "bank": write_requests(tmp_path / "b1.jsonl", 2, 3),
    }
    open_round(work, tmp_path / "round1.json", work / "model")
    sent = contributions(tmp_path, tmp_path / "round1.json", first)
    collabedit(
        *("merge", *sent, "--round", tmp_path / "round1.json", "-C", work / "cov64.safetensors"),
        *("--state", tmp_path / "state.safetensors", "-o", tmp_path / "delta1.safetensors"),
    )
    collabedit("apply", tmp_path / "delta1.safetensors", "-o", tmp_path / "model1")
    state = ("--state", tmp_path / "state.safetensors")
    open_round(work, tmp_path / "round2.json", tmp_path / "model1", *state)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def _covariance(exact_module: None, work: Path) -> None:  # noqa: F811
    """Float64 throughout: a float64 model rounds to float32 in its norms."""
    collabedit(
        *("stats", "collect", "--model", work / "model", "--layers", "1-2", "--dtype", "float64"),
        *("--corpus", work / "corpus.txt", "--tokens", 2000, "-o", work / "cov64.safetensors"),
    )


def merge_second(work: Path, rounds: Path, *more: object) -> Delta:  # noqa: F811
    second = {"hospital": write_requests(rounds / "h2.jsonl", 3, 6)}
    sent = contributions(rounds, rounds / "round2.json", second)
    collabedit(
        *("merge", *sent, "--round", rounds / "round2.json", "-C", work / "cov64.safetensors"),
        *("--state", rounds / "state.safetensors", "-o", rounds / "delta2.safetensors", *more),
    )
    return Delta.load(rounds / "delta2.safetensors")


@pytest.mark.parametrize(
    ("options", "beta"), [((), 10.0), (("--beta", 0), 0.0), (("--beta", 2), 2)]
)
def test_the_second_round_protects_the_keys_of_the_first(
    work: Path,  # noqa: F811
    rounds: Path,
    options: tuple[object, ...],
    beta: float,
) -> None:
    """Against ``A0 = lambda C + beta sum_j K_j K_j^T`` from all keys of the first round."""
    config1, config2 = (RoundConfig.load(rounds / f"round{n}.json") for n in (1, 2))
    assert config2.base_sha256 == config1.model_sha256
    delta = merge_second(work, rounds, *options)
    before = load_model(str(work / "model"), dtype="float64")
    past = measure(before, REQUESTS[:3], config1.contexts, config1.layers, 2)
    model = load_model(str(rounds / "model1"), dtype="float64")
    party = Party(model, REQUESTS[3:], config2)
    now = measure(model, REQUESTS[3:], config2.contexts, config2.layers, 2)
    moments = Covariance.load(work / "cov64.safetensors").second_moments
    for layer, name in zip(config2.layers, config2.weight_names, strict=True):
        keys, earlier = now.keys[layer], past.keys[layer]
        residual = config2.residual_share(layer) * (party.targets.double() - now.hidden)
        system = 5 * moments[name] + beta * earlier @ earlier.T + keys @ keys.T
        expected = LowRankUpdate.from_dense(torch.linalg.solve(system, keys @ residual.T).T)
        assert relative_distance(delta.changes[name], expected) < 1e-8
    assert RoundState.load(rounds / "state.safetensors").finished == 2


def test_mismatched_files_are_refused(work: Path, rounds: Path) -> None:  # noqa: F811
    state, cov = rounds / "state.safetensors", work / "cov64.safetensors"
    sent = rounds / "round1-bank.safetensors"
    both = ("--round", rounds / "round1.json", "-C", cov, "-o", rounds / "x.safetensors")
    assert "not the state that this round starts from" in fails(
        "merge", sent, *both, "--state", state
    )
    assert "--beta needs --state" in fails("merge", sent, *both, "--beta", 1)
    second = contributions(
        rounds, rounds / "round2.json", {"bank": write_requests(rounds / "b.jsonl", 3, 4)}
    )
    later = ("--round", rounds / "round2.json", "-C", cov, "-o", rounds / "x.safetensors")
    assert "follows earlier ones; give their --state" in fails("merge", *second, *later)
    assert "the one before the first round" in fails(
        *("round", "new", "--model", work / "model", "--state", state, "--dtype", "float64"),
        *("--hparams", work / "hparams.json", "-o", rounds / "x.json"),
    )
    assert not (rounds / "x.safetensors").exists()
    assert not (rounds / "x.json").exists()


def test_a_file_given_twice_is_refused(work: Path, rounds: Path) -> None:  # noqa: F811
    sent = rounds / "round1-bank.safetensors"
    assert "given twice" in fails(
        *("merge", sent, sent, "--round", rounds / "round1.json"),
        *("-C", work / "cov64.safetensors", "-o", rounds / "x.safetensors"),
    )
    copy = rounds / "copy.safetensors"
    copy.write_bytes(sent.read_bytes())
    assert "repeats the contribution of" in fails(
        *("merge", sent, copy, "--round", rounds / "round1.json"),
        *("-C", work / "cov64.safetensors", "-o", rounds / "x.safetensors"),
    )


def test_a_contribution_names_its_party_and_not_its_edits(rounds: Path) -> None:
    about = Contribution.load(rounds / "round1-bank.safetensors").metadata
    assert about.party == "bank"
    assert len(about.commitment) == 64


def test_priors_belong_to_the_unedited_model(work: Path, rounds: Path) -> None:  # noqa: F811
    """The covariance belongs to the model before the first round, which round 2 remembers."""
    config = RoundConfig.load(rounds / "round2.json")
    covariance = Covariance.load(work / "cov64.safetensors")
    assert config.model_sha256 != covariance.model_sha256
    covariance.check_model(config.covariance_sha256)
