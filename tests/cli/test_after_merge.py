"""``--after-merge`` by files: which weights it uses, what it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from collabedit.algebra import LowRankUpdate, relative_distance
from collabedit.merging import AfterMergeStep, after_merge, sphere
from collabedit.messages import Delta, RoundState
from collabedit.models import load_model
from tests.cli.commands import collabedit, fails
from tests.cli.test_by_files import work, write_requests  # noqa: F401
from tests.cli.test_rounds_by_files import _covariance as _covariance64  # noqa: F401
from tests.cli.test_rounds_by_files import contributions, open_round
from tests.conftest import make_model, save_model

STEP = ("--after-merge", "sphere:strength=0.5")


@pytest.fixture
def round_of_two(work: Path, tmp_path: Path) -> tuple[object, ...]:  # noqa: F811
    """A one-shot round's contributions, as ``merge`` takes them."""
    requests = {
        "hospital": write_requests(tmp_path / "h.jsonl", 0, 2),
        "bank": write_requests(tmp_path / "b.jsonl", 2, 4),
    }
    open_round(work, tmp_path / "round.json", work / "model")
    sent = contributions(tmp_path, tmp_path / "round.json", requests)
    return (*sent, "--round", tmp_path / "round.json", "-C", work / "cov64.safetensors")


def merged(out: Path, *arguments: object) -> Delta:
    collabedit("merge", *arguments, "-o", out)
    return Delta.load(out)


def test_a_step_gets_the_merged_change_and_the_weight(
    work: Path,  # noqa: F811
    tmp_path: Path,
    round_of_two: tuple[object, ...],
) -> None:
    """GPT-2 stores its weights transposed, which only the model knows."""
    plain = merged(tmp_path / "plain.safetensors", *round_of_two)
    after = merged(tmp_path / "after.safetensors", *round_of_two, *STEP)
    model = load_model(str(work / "model"), dtype="float64")
    for name, change in plain.changes.items():
        expected = sphere(change, model.weight(name), strength=0.5)
        assert relative_distance(after.changes[name], expected) < 1e-12
        assert relative_distance(after.changes[name], change) > 1e-3
        assert after.changes[name].left.shape == change.left.shape
    (step,) = after.metadata.after_merge
    assert step == AfterMergeStep(name="SPHERE", options={"energy": 0.5, "strength": 0.5})
    assert after.metadata.method == "CollabEdit"
    assert plain.metadata.after_merge == ()


def test_a_finished_delta_takes_the_same_steps(
    tmp_path: Path, round_of_two: tuple[object, ...]
) -> None:
    plain = tmp_path / "plain.safetensors"
    merged(plain, *round_of_two)
    steps = ("--after-merge", "RECT:keep=0.2", *STEP)
    at_once = merged(tmp_path / "once.safetensors", *round_of_two, *steps)
    later = merged(tmp_path / "later.safetensors", plain, *steps)
    assert later.sha256 == at_once.sha256
    assert later.metadata.after_merge == at_once.metadata.after_merge
    assert later.metadata.edits == 4
    line = fails("merge", tmp_path / "later.safetensors", *STEP, "-o", tmp_path / "no.safetensors")
    assert "the delta has already been through RECT (keep = 0.2), then SPHERE" in line
    assert not (tmp_path / "no.safetensors").exists()


def test_the_result_can_be_applied_and_exported(
    work: Path,  # noqa: F811
    tmp_path: Path,
    round_of_two: tuple[object, ...],
) -> None:
    """Even if it has full rank."""
    delta = merged(tmp_path / "d.safetensors", *round_of_two, "--after-merge", "RECT:keep=0.1")
    collabedit("apply", tmp_path / "d.safetensors", "-o", tmp_path / "edited")
    before = load_model(str(work / "model"), dtype="float64")
    after = load_model(str(tmp_path / "edited"), dtype="float64")
    for name, change in delta.changes.items():
        assert int((change.dense() != 0).sum()) == int(0.1 * change.dense().numel())
        torch.testing.assert_close(after.weight(name), before.weight(name) + change.dense())
    assert "RECT (keep = 0.1)" in (tmp_path / "edited" / "README.md").read_text()


def test_steps_wait_for_the_last_layer_of_a_layerwise_round(
    work: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = tmp_path / "layerwise.json"
    collabedit(
        *("round", "new", "--model", work / "model", "-o", config),
        *("--hparams", work / "hparams.json", "--contexts", work / "contexts.json"),
    )
    so_far: tuple[object, ...] = ()
    for name in ("first", "last"):
        sent, out = tmp_path / f"{name}.sent.safetensors", tmp_path / f"{name}.safetensors"
        requests = ("--requests", work / "all.jsonl")
        collabedit("contribute", "--round", config, *requests, "-o", sent, *so_far)
        files = ("--round", config, "-C", work / "cov.safetensors", "-o", out)
        printed = collabedit("merge", sent, *files, *so_far, *STEP)
        so_far = ("--delta", out)
        waits = "runs once all layers are merged" in printed
        assert waits == (name == "first")
        assert bool(Delta.load(out).metadata.after_merge) != waits


@pytest.fixture
def seen(own_registries: None) -> list[Tensor]:
    """The weights seen by a step that halves all changes since the unedited model."""
    weights: list[Tensor] = []

    @after_merge("Halved", since_unedited=True)
    def halved(update: LowRankUpdate, weight: Tensor) -> LowRankUpdate:
        weights.append(weight)
        return LowRankUpdate(0.5 * update.left, update.right)

    return weights


def test_the_state_of_several_rounds_includes_the_steps(
    work: Path,  # noqa: F811
    tmp_path: Path,
    seen: list[Tensor],
) -> None:
    """A step that acts on all changes gets those of all rounds, with the weights before them."""
    state, covariance = tmp_path / "state.safetensors", work / "cov64.safetensors"
    model: Path = work / "model"
    more: tuple[object, ...] = ()
    raw: list[Delta] = []
    for number in (1, 2):
        config = tmp_path / f"round{number}.json"
        open_round(work, config, model, *more)
        requests = write_requests(tmp_path / f"{number}.jsonl", 2 * number - 2, 2 * number)
        sent = contributions(tmp_path, config, {"hospital": requests})
        before = tmp_path / f"before{number}.safetensors"
        if number == 2:
            before.write_bytes(state.read_bytes())
        files = (*sent, "--round", config, "-C", covariance, "--state")
        raw.append(merged(tmp_path / "raw.safetensors", *files, before))
        merged(tmp_path / "delta.safetensors", *files, state, "--after-merge", "halved")
        collabedit("apply", tmp_path / "delta.safetensors", "-o", tmp_path / f"model{number}")
        model, more = tmp_path / f"model{number}", ("--state", state)
    original = load_model(str(work / "model"), dtype="float64")
    found = RoundState.load(state)
    last = load_model(str(tmp_path / "model2"), dtype="float64")
    for name, change in found.changes.items():
        first = 0.5 * raw[0].changes[name].dense()
        torch.testing.assert_close(change.dense(), 0.5 * (first + raw[1].changes[name].dense()))
        torch.testing.assert_close(last.weight(name), original.weight(name) + change.dense())
    for weight, name in zip(seen, [*found.changes] * 2, strict=True):
        torch.testing.assert_close(weight, original.weight(name))


def test_weights_of_another_model_are_refused(
    tmp_path: Path, round_of_two: tuple[object, ...]
) -> None:
    other = make_model("gpt2")
    other.weight("transformer.h.2.mlp.c_proj.weight").mul_(2)
    save_model(other, tmp_path / "other")
    out = tmp_path / "d.safetensors"
    line = fails("merge", *round_of_two, *STEP, "--model", tmp_path / "other", "-o", out)
    assert "is not the model that the delta was made for" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--after-merge", "SPHERES"), "SPHERES"),
        (("--after-merge", "SPHERE:power=1"), "SPHERE has no option 'power'; its options: energy"),
        (("--after-merge", "SPHERE:energy"), "cannot read 'energy'; write it like keep=0.1"),
        (("--model", "gpt2"), "--model is for --after-merge"),
    ],
)
def test_options_are_checked_before_anything_is_merged(
    tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    line = fails("merge", tmp_path / "none.safetensors", *more, "-o", tmp_path / "d.safetensors")
    assert message in line
