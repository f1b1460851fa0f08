from __future__ import annotations

import pytest
import torch

from collabedit.algebra import LowRankUpdate
from collabedit.errors import ModelError
from collabedit.models import LanguageModel
from tests.conftest import EXACT, half_step, make_model


def change(model: LanguageModel, scale: float = 1.0) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(1)
    d_out, d_in = model.structure.hidden_size, model.structure.mlp_size
    return LowRankUpdate(
        scale * torch.randn(d_out, 2, generator=generator, dtype=torch.float64),
        torch.randn(2, d_in, generator=generator, dtype=torch.float64),
    )


def test_an_edit_changes_the_projections_output(exact_family_model: LanguageModel) -> None:
    update = change(exact_family_model)
    (name,) = exact_family_model.weight_names([1])
    projection = exact_family_model.projection(1)
    x = torch.randn(5, exact_family_model.structure.mlp_size)
    before = projection(x)
    with exact_family_model.edited({name: update}):
        after = projection(x)
    torch.testing.assert_close(after - before, x @ update.dense().float().T, atol=EXACT, rtol=EXACT)
    assert torch.equal(projection(x), before)


def test_edited_restores_the_exact_bytes_even_after_an_error(tiny_llama: LanguageModel) -> None:
    names = tiny_llama.weight_names([0, 2])
    before = tiny_llama.state_fingerprint()

    def fail() -> None:
        with tiny_llama.edited({name: change(tiny_llama) for name in names}):
            assert tiny_llama.state_fingerprint() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert tiny_llama.state_fingerprint() == before


def test_edited_is_reentrant_for_the_same_edit_only(tiny_llama: LanguageModel) -> None:
    (name,) = tiny_llama.weight_names([1])
    edit = {name: change(tiny_llama)}
    with tiny_llama.edited(edit):
        once = tiny_llama.weight(name).clone()
        with tiny_llama.edited(edit):
            assert torch.equal(tiny_llama.weight(name), once)
        assert torch.equal(tiny_llama.weight(name), once)
        with tiny_llama.edited({name: LowRankUpdate(edit[name].left.clone(), edit[name].right)}):
            assert torch.equal(tiny_llama.weight(name), once)  # equal, though another object
        other = {name: change(tiny_llama, 2.0)}
        with pytest.raises(ModelError, match="another edit"), tiny_llama.edited(other):
            pass


def raw_bytes(model: LanguageModel, layers: list[int]) -> list[torch.Tensor]:
    """Copies of the weights."""
    return [model.weight(name).clone() for name in model.weight_names(layers)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_round_starts_from_what_earlier_rounds_wrote(family: str) -> None:
    """Within the block everything is as if the model had been loaded with the changes."""
    model, other = make_model(family), make_model(family)
    names = model.weight_names([0, 1, 2])
    earlier = {name: change(model, 0.1) for name in names[:2]}
    other.apply_(earlier)
    before, state = model.fingerprint(names), model.state_fingerprint()
    with model.starting_from(earlier):
        assert model.fingerprint(names) == other.fingerprint(names) != before
        assert model.state_fingerprint() == other.state_fingerprint() != state
        assert all(torch.equal(model.weight(name), other.weight(name)) for name in names)
    assert model.state_fingerprint() == state
    assert model.fingerprint(names) == before


def test_edits_inside_the_block_come_on_top_and_are_undone(tiny_llama: LanguageModel) -> None:
    names = tiny_llama.weight_names([1, 2])
    unedited = raw_bytes(tiny_llama, [1, 2])
    earlier, edit = {names[0]: change(tiny_llama)}, {n: change(tiny_llama, 0.5) for n in names}
    with tiny_llama.starting_from(earlier):
        start, fingerprint = raw_bytes(tiny_llama, [1, 2]), tiny_llama.fingerprint(names)
        for _ in range(2):
            with tiny_llama.edited(edit):
                on_top = (start[0].double() + edit[names[0]].dense()).float()
                assert torch.equal(tiny_llama.weight(names[0]), on_top)
                with tiny_llama.edited(edit):  # the same again does nothing
                    assert torch.equal(tiny_llama.weight(names[0]), on_top)
                with (
                    pytest.raises(ModelError, match="another edit"),
                    tiny_llama.edited(earlier),
                ):
                    pass
            assert all(map(torch.equal, raw_bytes(tiny_llama, [1, 2]), start))
            assert tiny_llama.fingerprint(names) == fingerprint
    assert all(map(torch.equal, raw_bytes(tiny_llama, [1, 2]), unedited))


def test_blocks_nest_and_each_restores_its_own_start(tiny_llama: LanguageModel) -> None:
    (name,) = tiny_llama.weight_names([1])
    with tiny_llama.starting_from({name: change(tiny_llama)}):
        first = tiny_llama.weight(name).clone()
        with tiny_llama.starting_from({name: change(tiny_llama)}):
            assert not torch.equal(tiny_llama.weight(name), first)
        assert torch.equal(tiny_llama.weight(name), first)


@pytest.mark.parametrize("where", ["block", "edit"])
def test_starting_from_restores_the_exact_bytes_after_an_error(
    tiny_llama: LanguageModel, where: str
) -> None:
    names = tiny_llama.weight_names([0, 2])
    before, unedited = tiny_llama.state_fingerprint(), raw_bytes(tiny_llama, [0, 2])
    earlier = {name: change(tiny_llama, 1e4) for name in names}  # subtracting would lose digits

    def fail() -> None:
        with tiny_llama.starting_from(earlier):
            if where == "block":
                raise KeyError
            with tiny_llama.edited({names[0]: change(tiny_llama)}):
                raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(map(torch.equal, raw_bytes(tiny_llama, [0, 2]), unedited))
    assert tiny_llama.state_fingerprint() == before
    with tiny_llama.edited({names[0]: change(tiny_llama)}):  # no edit is left open
        pass


def test_starting_from_is_refused_within_an_edit(tiny_llama: LanguageModel) -> None:
    (name,) = tiny_llama.weight_names([1])
    edit = {name: change(tiny_llama)}
    with tiny_llama.edited(edit):
        edited = tiny_llama.weight(name).clone()
        for changes in ({name: change(tiny_llama)}, edit, {}):
            with (
                pytest.raises(ModelError, match="leave that block first"),
                tiny_llama.starting_from(changes),
            ):
                pass
        assert torch.equal(tiny_llama.weight(name), edited)


def test_changes_that_do_not_fit_leave_nothing_behind(tiny_llama: LanguageModel) -> None:
    names = tiny_llama.weight_names([0, 1])
    unedited = raw_bytes(tiny_llama, [0, 1])
    small = LowRankUpdate(torch.ones(3, 1), torch.ones(1, 4))
    wrong = {names[0]: change(tiny_llama), names[1]: small}
    with pytest.raises(ModelError, match="another model"), tiny_llama.starting_from(wrong):
        pass
    with (
        pytest.raises(ModelError, match="no weight nowhere"),
        tiny_llama.starting_from({names[0]: change(tiny_llama), "nowhere": change(tiny_llama)}),
    ):
        pass
    assert all(map(torch.equal, raw_bytes(tiny_llama, [0, 1]), unedited))


def test_starting_from_nothing_changes_nothing(tiny_llama: LanguageModel) -> None:
    before = tiny_llama.state_fingerprint()
    with tiny_llama.starting_from({}):
        assert tiny_llama.state_fingerprint() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_get_the_sum_with_one_rounding(family: str, dtype: torch.dtype) -> None:
    """Not the sum with a rounded change, which is further from the exact sum."""
    model = make_model(family, dtype=dtype)
    (name,) = model.weight_names([1])
    before, update = model.weight(name).clone(), change(model, 0.05)
    exact = before.double() + update.dense()
    with model.edited({name: update}):
        after = model.weight(name)
        assert after.dtype == dtype
        assert ((after.double() - exact).abs() <= half_step(exact, dtype)).all()
    assert torch.equal(model.weight(name), before)
    twice_rounded = before + update.dense().to(dtype)
    assert ((twice_rounded.double() - exact).abs() > half_step(exact, dtype)).any()


def test_an_update_of_another_shape_is_refused(tiny_gpt2: LanguageModel) -> None:
    (name,) = tiny_gpt2.weight_names([1])
    wrong = LowRankUpdate(torch.ones(48, 1), torch.ones(1, 32))
    with pytest.raises(ModelError, match="another model"):
        tiny_gpt2.apply_({name: wrong})


def test_layers_that_do_not_exist_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(ModelError, match="layers 0 to 3; there is no layer 4"):
        tiny_llama.weight_names([3, 4])


def test_every_family_adds_what_its_projection_gives(family_model: LanguageModel) -> None:
    for layer in range(family_model.structure.n_layers):
        family_model.tail(layer)


def test_digests_notice_writes_from_outside(family_model: LanguageModel) -> None:
    (name,) = family_model.weight_names([1])
    seen = [family_model.fingerprint([name])[name]]
    family_model.weight(name)[0, 0] += 1  # one value, by a counted write
    seen.append(family_model.fingerprint([name])[name])
    parameter = family_model.hf.get_parameter(name)
    parameter.data.mul_(1.5)  # all values, by one that torch does not count
    seen.append(family_model.fingerprint([name])[name])
    module, own = family_model._locate(name)
    setattr(module, own, torch.nn.Parameter(parameter.data * 2, requires_grad=False))
    seen.append(family_model.fingerprint([name])[name])
    assert len(set(seen)) == 4


def test_a_digest_is_computed_once_while_nothing_changes(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny_llama.state_fingerprint()
    monkeypatch.setattr(
        "collabedit.models.language_model.weight_sha256", lambda tensor: "computed again"
    )
    assert tiny_llama.state_fingerprint() == before
