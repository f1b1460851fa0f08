"""Settings as objects and files: what a round keeps of them, and how a model uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collabedit import Coordinator, Delta, Hyperparameters, Party, new_round, resolve_method
from collabedit.algebra import Prior
from collabedit.errors import CollabEditError, InputError
from collabedit.models import LanguageModel
from collabedit.parties import fine_tune
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.editors.test_published import ALPHA_EDIT, EASYEDIT, EMMET, FT, MEMIT, PMET, ROME


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_settings_of_later_versions_leave_older_rounds_as_they_are() -> None:
    """A round's digest is that of its settings, so absent ones must not be written."""
    plain = Hyperparameters(layers=(1,)).model_dump(mode="json")
    assert not {"loss_layer", "equality_ridge"} & set(plain)
    given = Hyperparameters(layers=(1,), loss_layer=3, equality_ridge=0.0, ft_norm_bound=None)
    assert Hyperparameters.model_validate_json(given.model_dump_json()) == given
    assert given.with_changes(layers=(2,)).ft_norm_bound is None


def test_the_loss_must_be_the_last_layers(tiny_llama: LanguageModel) -> None:
    depth = tiny_llama.structure.n_layers
    new_round(
        tiny_llama,
        hyperparameters=Hyperparameters(layers=(1,), loss_layer=depth - 1),
        contexts=CONTEXTS,
    )
    with pytest.raises(InputError, match=r"loss_layer \(v_loss_layer\) 31 is not the last"):
        new_round(
            tiny_llama,
            hyperparameters=Hyperparameters(layers=(1,), loss_layer=31),
            contexts=CONTEXTS,
        )


def test_emmets_ridge_enters_its_update(tiny_llama: LanguageModel) -> None:
    """``R (K^T C^-1 K + e I)^-1 K^T C^-1``, as its authors compute it for several edits."""
    ridge = 0.25
    own = Hyperparameters(layers=(1,), target_steps=2, prior_weight=5.0, equality_ridge=ridge)
    config = new_round(tiny_llama, editor="EMMET", hyperparameters=own, contexts=CONTEXTS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(config.d_in, 3 * config.d_in, generator=generator, dtype=torch.float64)
    second_moment = x @ x.T / x.shape[1]
    (name,) = config.weight_names
    priors = {name: Prior.from_second_moment(second_moment, 5.0)}
    sent = Party(tiny_llama, REQUESTS[:3], config).contribute(Delta.empty(config), dtype="float64")
    coordinator = Coordinator(config, priors, resolve_method("CollabEdit"))
    delta = coordinator.merge({"hospital": sent}).changes[name]
    keys, residuals = sent.statistics[name].keys, sent.statistics[name].residuals
    inverse = torch.linalg.inv(5.0 * second_moment)
    gram = keys.T @ inverse @ keys
    softened = gram + ridge * torch.eye(len(gram), dtype=torch.float64)
    expected = residuals @ torch.linalg.inv(softened) @ keys.T @ inverse
    assert distance(delta.dense(), expected) < 1e-9
    hard = residuals @ torch.linalg.inv(gram) @ keys.T @ inverse
    assert distance(delta.dense(), hard) > 1e-3


def test_a_setting_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text('{"layers": [1], "layers": [2]}')
    with pytest.raises(InputError, match="gives 'layers' twice"):
        Hyperparameters.from_file(path)


def test_fine_tuning_without_a_bound_goes_beyond_it(tiny_llama: LanguageModel) -> None:
    bound = Hyperparameters(layers=(2,), ft_steps=3, ft_learning_rate=0.02, ft_norm_bound=1e-3)
    free = Hyperparameters(layers=(2,), ft_steps=3, ft_learning_rate=0.02, ft_norm_bound=None)
    (within,) = fine_tune(tiny_llama, REQUESTS, bound).values()
    (beyond,) = fine_tune(tiny_llama, REQUESTS, free).values()
    assert within.dense().abs().max() <= 1e-3 * (1 + 1e-6)  # float32's nearest
    assert beyond.dense().abs().max() > 0.01


QUICK = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PUBLISHED: list[dict[str, Any]] = [ROME, MEMIT, PMET, EMMET, ALPHA_EDIT, FT, {"layers": [1]}]
NAMES = st.sampled_from(sorted({name for values in PUBLISHED for name in values})) | st.text()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def outcome(path: Path) -> None:
    """Read a file, which must raise only errors meant for people."""
    try:
        message = str(Hyperparameters.from_file(path))
    except CollabEditError as error:
        message = str(error)
    assert message.encode()  # no half characters, so that it can be printed
    assert "\n" not in message


@QUICK
@given(
    base=st.sampled_from(PUBLISHED), changes=st.dictionaries(NAMES, VALUES, min_size=1, max_size=3)
)
def test_files_with_an_arbitrary_value(
    tmp_path: Path, base: dict[str, Any], changes: dict[str, Any]
) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps({**base, **changes}))
    outcome(path)


@QUICK
@given(
    content=st.binary(max_size=100)
    | st.text(st.sampled_from("{}[]:,-&*!#|>'\"?%@ \nlayers10eE.~"), max_size=60).map(str.encode)
    | st.text(max_size=20).map(lambda text: (EASYEDIT + text).encode()),
    suffix=st.sampled_from([".json", ".yaml", ".YML"]),
)
def test_arbitrary_content(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"some{suffix}"
    path.write_bytes(content)
    outcome(path)
