"""The state after finished rounds: the next round's priors, the summed changes, and the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from collabedit.algebra import LowRankUpdate, Prior
from collabedit.errors import InputError, RoundError
from collabedit.files import load_tensors, save_tensors
from collabedit.messages import Delta, RoundState
from collabedit.models import LanguageModel
from collabedit.rounds import dynamic_priors
from tests.conftest import half_step, make_model
from tests.rounds.test_round import make_round

D_IN, D_OUT = 24, 10
NAMES = ("layers.1.down.weight", "layers.2.down.weight")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_moment(seed: int) -> Tensor:
    x = random(D_IN, 3 * D_IN, seed=seed)
    return x @ x.T / (3 * D_IN)


def update(rank: int, seed: int) -> LowRankUpdate:
    return LowRankUpdate(random(D_OUT, rank, seed=seed), random(rank, D_IN, seed=seed + 1))


Merged = tuple[dict[str, LowRankUpdate], dict[str, Tensor]]


def rounds(*ranks: int) -> list[Merged]:
    """What each round merges: its changes and its pooled keys."""
    made = []
    for number, rank in enumerate(ranks):
        changes = {name: update(rank, 10 * number + i) for i, name in enumerate(NAMES)}
        keys = {name: random(D_IN, rank, seed=50 * number + i) for i, name in enumerate(NAMES)}
        made.append((changes, keys))
    return made


def state_after(finished: list[Merged]) -> RoundState:
    state = RoundState()
    for changes, keys in finished:
        state = state.after(changes, keys)
    return state


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("ranks", [(1,), (2, 3), (3, 2, 4), (9, 9, 9, 9)])
def test_changes_add_up_and_keys_accumulate(ranks: tuple[int, ...]) -> None:
    finished = rounds(*ranks)
    state = state_after(finished)
    assert state.finished == len(ranks)
    for name in NAMES:
        total = sum(changes[name].dense() for changes, _ in finished)
        assert relative(state.changes[name].dense(), total) < 1e-14
        assert state.changes[name].left.shape[1] <= D_OUT  # it never outgrows the weight
        expected = sum(keys[name] @ keys[name].T for _, keys in finished)
        assert relative(state.keys[name] @ state.keys[name].T, expected) < 1e-14


def test_another_round_leaves_the_state_itself_unchanged() -> None:
    first, second = rounds(2, 3)
    state = state_after([first])
    dense = {name: change.dense() for name, change in state.changes.items()}
    state.after(*second)
    assert state.finished == 1
    assert all(torch.equal(state.changes[name].dense(), dense[name]) for name in NAMES)
    assert all(torch.equal(state.keys[name], first[1][name]) for name in NAMES)


@pytest.mark.parametrize("beta", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("ranks", [(2,), (2, 3), (7, 7)], ids=["low rank", "two rounds", "folded"])
def test_the_next_priors_are_the_dense_sum(ranks: tuple[int, ...], beta: float) -> None:
    """``lambda C + beta sum F F^T`` over all finished rounds."""
    finished = rounds(*ranks)
    moments = {name: second_moment(seed) for seed, name in enumerate(NAMES)}
    static = {name: Prior.from_second_moment(moment, 15.0) for name, moment in moments.items()}
    priors = dynamic_priors(static, state_after(finished).keys, beta)
    assert list(priors) == list(NAMES)
    for name in NAMES:
        keys = sum(own[name] @ own[name].T for _, own in finished)
        assert relative(priors[name].dense(), 15.0 * moments[name] + beta * keys) < 1e-13
        assert relative(static[name].dense(), 15.0 * moments[name]) < 1e-13


def test_small_changes_of_many_rounds_add_up_in_half_precision() -> None:
    """Each is smaller than a step of bfloat16; the state has their sum, which is rounded once."""
    model = make_model("llama", dtype=torch.bfloat16)
    (name,) = model.weight_names([1])
    before = model.weight(name).clone()
    d_out, d_in = before.shape
    small = LowRankUpdate(
        1e-5 * torch.ones(d_out, 1, dtype=torch.float64), torch.ones(1, d_in, dtype=torch.float64)
    )
    state, applied_each_time = RoundState(), make_model("llama", dtype=torch.bfloat16)
    for _ in range(200):
        state = state.after({name: small}, {})
        applied_each_time.apply_({name: small})
    exact = before.double() + 200 * small.dense()
    with model.starting_from(state.changes):
        kept = model.weight(name).double() - exact
    lost = applied_each_time.weight(name).double() - exact
    assert (kept.abs() <= half_step(exact, torch.bfloat16)).all()
    assert lost.abs().mean() > 5 * kept.abs().mean()
    assert torch.equal(model.weight(name), before)


def test_without_beta_or_keys_the_priors_are_the_static_ones() -> None:
    static = {name: Prior.from_second_moment(second_moment(1), 2.0) for name in NAMES}
    changes, keys = rounds(2)[0]
    unchanged = [
        dynamic_priors(static, state_after([(changes, keys)]).keys, 0.0),
        dynamic_priors(static, state_after([(changes, {})]).keys, 5.0),
        dynamic_priors(static, RoundState().keys, 5.0),
    ]
    for priors in unchanged:
        assert all(priors[name] is static[name] for name in NAMES)


def test_only_weights_with_keys_get_another_prior() -> None:
    static = {name: Prior.from_second_moment(second_moment(1), 2.0) for name in NAMES}
    changes, keys = rounds(2)[0]
    priors = dynamic_priors(static, state_after([(changes, {NAMES[1]: keys[NAMES[1]]})]).keys, 1.0)
    assert priors[NAMES[0]] is static[NAMES[0]]
    assert relative(priors[NAMES[1]].dense(), static[NAMES[1]].dense()) > 1e-3


def test_a_round_without_keys_keeps_those_of_earlier_ones() -> None:
    (first, keys), (second, _) = rounds(2, 2)
    state = state_after([(first, keys), (second, {})])
    assert set(state.keys) == set(NAMES)
    assert all(torch.equal(state.keys[name], keys[name]) for name in NAMES)


def test_a_round_that_changes_some_weights_keeps_the_other_changes() -> None:
    (first, _), (second, _) = rounds(2, 2)
    state = state_after([(first, {}), ({NAMES[0]: second[NAMES[0]]}, {})])
    assert torch.equal(state.changes[NAMES[1]].dense(), first[NAMES[1]].dense())


# The file


@pytest.mark.parametrize("ranks", [(), (2,), (3, 4, 5)])
def test_a_file_carries_a_state_exactly(tmp_path: Path, ranks: tuple[int, ...]) -> None:
    path = tmp_path / "deep" / "state.safetensors"
    state = state_after(rounds(*ranks))
    state.save(path)
    loaded = RoundState.load(path)
    assert loaded.finished == state.finished
    assert set(loaded.changes) == set(state.changes)
    assert set(loaded.keys) == set(state.keys)
    for name in state.changes:
        assert torch.equal(loaded.changes[name].left, state.changes[name].left)
        assert torch.equal(loaded.changes[name].right, state.changes[name].right)
        assert torch.equal(loaded.keys[name], state.keys[name])
        assert loaded.keys[name].dtype == torch.float64


def test_a_state_without_keys_round_trips_too(tmp_path: Path) -> None:
    state_after([(rounds(2)[0][0], {})]).save(tmp_path / "state.safetensors")
    loaded = RoundState.load(tmp_path / "state.safetensors")
    assert (loaded.finished, loaded.keys, set(loaded.changes)) == (1, {}, set(NAMES))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The file of a good state."""
    path = tmp_path / "state.safetensors"
    state_after(rounds(2)).save(path)
    return path


def rewrite(path: Path, tensors: dict[str, Tensor | None], **metadata: Any) -> None:
    """Change a file's arrays (``None`` removes one) and metadata."""
    old, facts = load_tensors(path)
    changed = {name: value for name, value in {**old, **tensors}.items() if value is not None}
    kept = {name: value for name, value in {**facts, **metadata}.items() if value is not None}
    save_tensors(path, changed, kept)


FIRST = NAMES[0]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{FIRST}/B": None}, rf"{FIRST} needs matrices B \[d_out, r\] and A \[r, d_in\]"),
        ({f"{FIRST}/A": None}, "needs matrices"),
        ({f"{FIRST}/A": torch.ones(3, D_IN)}, "needs matrices"),
        ({f"{FIRST}/B": torch.ones(D_OUT)}, "needs matrices"),
        ({f"{FIRST}/B": torch.ones(D_OUT, 2, dtype=torch.int64)}, "needs matrices"),
        ({f"{FIRST}/B": torch.full((D_OUT, 2), float("nan"))}, "NaN or infinite"),
        ({f"{FIRST}/A": torch.full((2, D_IN), float("inf"))}, "NaN or infinite"),
        ({"alone": torch.ones(2, 2)}, "needs matrices"),
        ({f"{FIRST}/keys": torch.full((2, D_IN), float("nan"))}, f"keys of {FIRST} are malformed"),
        ({f"{FIRST}/keys": torch.full((2, D_IN), -float("inf"))}, "are malformed"),
        ({f"{FIRST}/keys": torch.ones(2, 3, D_IN)}, "are malformed"),
        ({f"{FIRST}/keys": torch.ones(D_IN)}, "are malformed"),
        ({f"{FIRST}/keys": torch.ones(2, D_IN + 1)}, "are malformed"),
        ({"layers.9.down.weight/keys": torch.ones(2, D_IN)}, "keys of layers.9.down.weight are"),
    ],
)
def test_malformed_arrays_are_refused(
    stored: Path, tensors: dict[str, Tensor | None], message: str
) -> None:
    rewrite(stored, tensors)
    with pytest.raises(RoundError, match=message) as caught:
        RoundState.load(stored)
    assert str(stored) in str(caught.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "collabedit.delta"},
        {"format": None},
        {"version": 3},
        {"version": None},
        {"finished": None},
        {"finished": "many"},
        {"finished": -1},
    ],
)
def test_other_files_are_refused(stored: Path, metadata: dict[str, Any]) -> None:
    rewrite(stored, {}, **metadata)
    with pytest.raises(RoundError) as caught:
        RoundState.load(stored)
    assert str(stored) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_delta_is_not_a_state(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    Delta.empty(make_round(tiny_llama)).save(tmp_path / "delta.safetensors")
    with pytest.raises(RoundError, match=r"not a collabedit\.state file"):
        RoundState.load(tmp_path / "delta.safetensors")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        RoundState.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("not a state")
    with pytest.raises(InputError, match="not a safetensors file"):
        RoundState.load(tmp_path / "text.safetensors")
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "weights.safetensors")
    with pytest.raises(RoundError, match="not a"):
        RoundState.load(tmp_path / "weights.safetensors")
