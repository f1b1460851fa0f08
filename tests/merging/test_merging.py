from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collabedit.algebra import Factors, LowRankUpdate, Prior, Statistics, compress, solve
from collabedit.editors import NullSpacePrior
from collabedit.errors import InputError, RoundError, UnknownNameError
from collabedit.merging import (
    MergeMethod,
    Merges,
    collab_edit,
    dare,
    merge_method,
    merge_methods,
    pooled,
    resolve_method,
    simple_average,
    task_arithmetic,
    ties,
    weighted_average,
)
from tests.algebra.test_algebra import D_IN, D_OUT, random, relative, second_moment

PRIOR = Prior.from_second_moment(second_moment(), 20.0)


def split(keys: Tensor, residuals: Tensor, sizes: list[int]) -> list[Factors]:
    return [
        compress(k, r)
        for k, r in zip(keys.split(sizes, dim=1), residuals.split(sizes, dim=1), strict=True)
    ]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    ridge=st.sampled_from([0.0, 1.0]),
    data=st.data(),
)
@settings(max_examples=30, deadline=None)
def test_collab_edit_is_the_pooled_edit_for_any_split_and_order(
    sizes: list[int], ridge: float, data: st.DataObject
) -> None:
    n = sum(sizes)
    keys, residuals = random(D_IN, n, seed=n), random(D_OUT, n, seed=n + 1)
    parties = data.draw(st.permutations(split(keys, residuals, sizes)))
    expected = pooled([compress(keys, residuals)], PRIOR, ridge).dense()
    assert relative(collab_edit(parties, PRIOR, ridge).dense(), expected) < 1e-10


def test_pooled_refuses_several_parties() -> None:
    parties = split(random(D_IN, 4), random(D_OUT, 4, seed=1), [2, 2])
    with pytest.raises(RoundError, match="GLOBAL"):
        pooled(parties, PRIOR)


def updates(count: int = 3) -> list[LowRankUpdate]:
    return [
        LowRankUpdate(random(D_OUT, 2, seed=i), random(2, D_IN, seed=9 + i)) for i in range(count)
    ]


def test_the_simple_average_divides_by_the_number_of_parties() -> None:
    dense = torch.stack([u.dense() for u in updates()])
    assert relative(simple_average(updates()).dense(), dense.mean(dim=0)) < 1e-14


def test_task_arithmetic_scales_the_sum() -> None:
    dense = torch.stack([u.dense() for u in updates()])
    assert relative(task_arithmetic(updates(), scale=0.3).dense(), 0.3 * dense.sum(dim=0)) < 1e-14


def test_under_alphaedits_prior_the_simple_average_is_that_of_projected_updates() -> None:
    """The naive federated AlphaEdit: ``mean_j R_j K_j^T P (K_j K_j^T P + lambda_2 I)^-1``."""
    moment, weight, threshold = second_moment(), 10.0, 0.5
    values, vectors = torch.linalg.eigh(moment)
    null = vectors[:, values < threshold]
    assert 0 < null.shape[1] < D_IN
    projector, identity = null @ null.mT, torch.eye(D_IN, dtype=torch.float64)
    parts = [(random(D_IN, n, seed=n), random(D_OUT, n, seed=n + 50)) for n in (2, 3, 5)]
    prior = NullSpacePrior(threshold, weight).build(moment)

    def update(keys: Tensor, residuals: Tensor) -> Tensor:
        moment = keys @ keys.mT @ projector + weight * identity
        return residuals @ keys.mT @ projector @ torch.linalg.inv(moment)

    expected = sum((update(k, r) for k, r in parts), torch.zeros(1)) / len(parts)
    own = [solve(compress(k, r), prior) for k, r in parts]
    assert relative(simple_average(own).dense(), expected) < 1e-10
    together = update(*(torch.cat(each, dim=1) for each in zip(*parts, strict=True)))
    exact = collab_edit([compress(k, r) for k, r in parts], prior)
    assert relative(exact.dense(), together) < 1e-10
    assert relative(simple_average(own).dense(), together) > 0.3


def brute_force_ties(deltas: list[Tensor], keep: float, scale: float) -> Tensor:
    trimmed = []
    for delta in deltas:
        kept = sorted(delta.abs().flatten().tolist(), reverse=True)[: int(keep * delta.numel()) + 1]
        trimmed.append(torch.where(delta.abs() >= kept[-1], delta, 0.0))
    result = torch.zeros_like(deltas[0])
    majority = sum(
        float(torch.stack(trimmed)[:, i, j].sum().sign())
        for i, j in itertools.product(*map(range, result.shape))
    )
    for i, j in itertools.product(*map(range, result.shape)):
        entries = [float(t[i, j]) for t in trimmed]
        sign = (sum(entries) > 0) - (sum(entries) < 0) or (majority > 0) - (majority < 0)
        agreeing = [e for e in entries if e * sign > 0]
        result[i, j] = scale * sum(agreeing) / max(1, len(agreeing))
    return result


@pytest.mark.parametrize("keep", [0.2, 0.5])
def test_ties_equals_a_brute_force_loop(keep: float) -> None:
    expected = brute_force_ties([u.dense() for u in updates()], keep, 0.4)
    assert relative(ties(updates(), keep=keep).dense(), expected) < 1e-13


def test_ties_can_keep_everything_of_one_party() -> None:
    (update,) = updates(1)
    assert relative(ties([update], keep=1.0, scale=1.0).dense(), update.dense()) < 1e-14


@pytest.mark.parametrize("keep", [0.0, 1.5])
def test_ties_refuses_shares_out_of_range(keep: float) -> None:
    with pytest.raises(InputError, match="keep"):
        ties(updates(), keep=keep)


@pytest.mark.parametrize("weights", [(4, 20, 6), (0.5, 0.0, 0.5)])
def test_the_weighted_average_uses_the_weights(
    weights: tuple[float, ...],
) -> None:
    dense = [u.dense() for u in updates()]
    expected = sum(w * d for w, d in zip(weights, dense, strict=True)) / sum(weights)
    assert relative(weighted_average(updates(), weights).dense(), expected) < 1e-14
    by_name = resolve_method("wsa").merge_updates(updates(), weights=weights)
    assert torch.equal(by_name.dense(), weighted_average(updates(), weights).dense())


def test_equal_weights_are_the_simple_average() -> None:
    expected = simple_average(updates()).dense()
    for weights in (None, [7, 7, 7]):
        assert relative(weighted_average(updates(), weights).dense(), expected) < 1e-14


@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 3], [0, 0, 0], [1, 1, float("nan")]])
def test_invalid_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match="WSA: 3 parties need a weight each"):
        weighted_average(updates(), weights)


@pytest.mark.parametrize(
    ("method", "weights", "message"),
    [
        ("WSA", [1, 2], "WSA needs a weight for each party; parties: 3, weights: 2"),
        ("WSA", [1, 2, 3, 4], "WSA needs a weight for each party; parties: 3, weights: 4"),
        ("WSA", [1, 0, 3], "WSA: weights must be positive and finite, found 1, 0, 3"),
        ("WSA", [1, float("inf"), 3], "WSA: weights must be positive and finite, found 1, inf, 3"),
        ("WSA", [1, float("nan"), 3], "WSA: weights must be positive and finite, found 1, nan, 3"),
        ("SA", [1, 2, 3], "SA does not weight the parties; methods that do: WSA"),
        ("CollabEdit", [1, 2, 3], "CollabEdit does not weight the parties"),
    ],
)
def test_a_users_weights_are_checked(method: str, weights: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_method(method).check_weights(weights, 3)
    resolve_method("WSA").check_weights([3, 1, 0.5], 3)


def test_methods_without_weights_do_not_see_them() -> None:
    for name in ("SA", "TA", "TIES"):
        method = resolve_method(name)
        unweighted = method.merge_updates(updates()).dense()
        assert torch.equal(method.merge_updates(updates(), weights=[1, 2, 3]).dense(), unweighted)


def test_dare_equals_a_loop_over_the_entries() -> None:
    key = hashlib.sha256(b"3\0h.1.w").digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    expected = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
    for update in updates():
        chance, dense = torch.rand(D_OUT, D_IN, generator=generator), update.dense()
        for i, j in itertools.product(range(D_OUT), range(D_IN)):
            if chance[i, j] >= 0.6:
                expected[i, j] += dense[i, j] / (1 - 0.6)
    found = dare(updates(), drop=0.6, scale=0.5, seed=3, name="h.1.w").dense()
    assert relative(found, 0.5 * expected) < 1e-14


def test_dare_drops_the_given_share_and_keeps_the_expected_sum() -> None:
    (update,) = updates(1)
    found = torch.stack([dare([update], drop=0.7, seed=seed).dense() for seed in range(2000)])
    dropped = float((found == 0).double().mean())
    assert abs(dropped - 0.7) < 0.005  # 480,000 draws: a standard error of 0.0007
    expected = task_arithmetic([update]).dense()
    assert relative(found.mean(dim=0), expected) < 0.06  # sqrt(0.7 / 0.3 / 2000) = 0.034


def test_dare_without_drops_is_task_arithmetic_and_depends_on_its_seed() -> None:
    expected = task_arithmetic(updates(), scale=0.3).dense()
    assert relative(dare(updates(), drop=0.0, scale=0.3).dense(), expected) < 1e-14
    assert torch.equal(dare(updates(), seed=5).dense(), dare(updates(), seed=5).dense())
    assert not torch.equal(dare(updates(), seed=5).dense(), dare(updates(), seed=6).dense())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 1.0}, "drop"),
        ({"drop": -0.1}, "drop"),
        ({"seed": 0.5}, "seed must be of type int"),
        ({"scale": float("nan")}, "scale must be finite"),
    ],
)
def test_dare_refuses_invalid_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_method("DARE").merge_updates(updates(), options)


def test_dare_drops_other_entries_in_every_layer() -> None:
    method = resolve_method("DARE")
    one, two, again = (
        method.merge_updates(updates(), name=name).dense() for name in ("h.1", "h.2", "h.1")
    )
    assert torch.equal(one, again)
    assert not torch.equal(one == 0, two == 0)


def test_options_come_from_the_command_line_as_texts() -> None:
    found = resolve_method("DARE").checked({"seed": "7", "drop": "0.5"})
    assert found == {"drop": 0.5, "scale": 1.0, "seed": 7}
    assert type(found["seed"]) is int


@pytest.fixture
def damped(own_registries: None) -> MergeMethod:
    """A custom method, registered through the public interface alone."""

    @merge_method("Damped", Merges.SUM, "https://example.org/damped")
    def _damped(
        statistics: Sequence[Statistics], prior: Prior, ridge: float = 1.0, *, damping: float = 1.0
    ) -> LowRankUpdate:
        """CollabEdit, divided."""
        return LowRankUpdate.sum([solve(statistics, prior, ridge)], 1 / damping)

    return resolve_method("damped")


def test_options_of_methods_that_merge_statistics_are_used(damped: MergeMethod) -> None:
    parties = split(random(D_IN, 4), random(D_OUT, 4, seed=1), [2, 2])
    expected = collab_edit(parties, PRIOR).dense() / 7
    found = damped.merge_statistics(parties, PRIOR, options={"damping": 7}).dense()
    assert relative(found, expected) < 1e-14
    assert damped.reference == "https://example.org/damped"
    assert damped.summary == "CollabEdit, divided."


def _untyped(updates: Sequence[LowRankUpdate], *, scale=1.0) -> LowRankUpdate:  # type: ignore[no-untyped-def]
    return updates[0]


def _without_default(updates: Sequence[LowRankUpdate], *, scale: float) -> LowRankUpdate:
    return updates[0]


def _optional(updates: Sequence[LowRankUpdate], *, scale: float | None = None) -> LowRankUpdate:
    return updates[0]


@pytest.mark.parametrize("function", [_untyped, _without_default, _optional])
def test_incompletely_declared_options_are_refused(
    function: Callable[..., LowRankUpdate],
) -> None:
    with pytest.raises(TypeError, match="Odd: declare the option scale with a default"):
        merge_method("Odd", Merges.UPDATES)(function)
    assert "Odd" not in {method.name for method in merge_methods()}


def test_methods_that_merge_the_sum_cannot_weigh_the_parties() -> None:
    """Otherwise a user's weights would be recorded but not used."""
    with pytest.raises(TypeError, match="Odd: the sum has no weights"):
        merge_method("Odd", Merges.SUM)(weighted_average)
    assert "Odd" not in {method.name for method in merge_methods()}


@pytest.mark.parametrize("spelling", ["collabedit", "COLLABEDIT", " CollabEdit "])
def test_names_are_accepted_in_any_case(spelling: str) -> None:
    assert resolve_method(spelling).name == "CollabEdit"


def test_unknown_names_are_refused_with_the_list() -> None:
    with pytest.raises(UnknownNameError, match="CollabEdit, DARE, GLOBAL, SA, TA, TIES, WSA"):
        resolve_method("COLLAB")


def test_unknown_options_are_refused_with_the_list() -> None:
    with pytest.raises(InputError, match="keep, scale"):
        resolve_method("TIES").merge_updates(updates(), {"kept": 0.1})


def test_the_registry_says_what_each_method_merges() -> None:
    kinds = {method.name: method.merges for method in merge_methods()}
    assert kinds == {
        "CollabEdit": Merges.SUM,
        "DARE": Merges.UPDATES,
        "GLOBAL": Merges.SUM,
        "SA": Merges.UPDATES,
        "TA": Merges.UPDATES,
        "TIES": Merges.UPDATES,
        "WSA": Merges.UPDATES,
    }
    assert all(method.summary for method in merge_methods())
