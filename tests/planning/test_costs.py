"""The counts of operations compared with torch's, and what memory depends on."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.products import operations as counted
from collabedit.covariance import TextCorpus, collect
from collabedit.editing import measure, optimise_targets
from collabedit.editors import Hyperparameters, editors, resolve_editor
from collabedit.evaluation import evaluate
from collabedit.messages import Schedule
from collabedit.models import LanguageModel
from collabedit.models.loading import load_structure_only
from collabedit.models.tokens import encode, fill_template
from collabedit.parties import fine_tune
from collabedit.planning import STAGES, Cost, ModelShape, Texts, Workload, estimate, peak, remedy
from collabedit.requests import EditRequest, Record
from tests.conftest import CORPUS, MIXTURES, make_model

CONTEXTS = (("{}",), ("Then. {}", "So it. {}"))
SETTINGS = Hyperparameters(
    layers=(1, 2), target_steps=5, loss_threshold=0, ft_steps=2, ft_learning_rate=1e-6
)
REQUESTS = [EditRequest(i, "The capital of {} is", "Italy", "Paris") for i in range(24)]
DISTINCT = [
    EditRequest(i, "The capital of {} is", f"Ital{letter}", "Paris")
    for i, letter in enumerate("bcdfghjklmnpqrst")
]


def texts_of(model: LanguageModel, requests: list[EditRequest]) -> Texts:
    """Averages over these texts, by the tokenizer."""

    def encoded(template: str) -> list[Any]:
        filled = [fill_template(template, r.prompt, r.subject, r.target_new) for r in requests]
        return encode(model.tokenizer, filled)

    def mean(values: list[int]) -> float:
        return sum(values) / len(values)

    bare = encoded("{}")
    prefixed = [text for template in CONTEXTS[1] for text in encoded(template)]
    tokens = mean([len(text.ids) - 1 for text in bare])
    return Texts(
        tokens=tokens,
        suffix=mean([len(text.ids) - 1 - text.subject_last for text in bare]),
        target=mean([len(text.target_ids) for text in bare]),
        contexts=len(CONTEXTS[1]),
        context=mean([len(text.ids) - 1 for text in prefixed]) - tokens,
        prompts=1,
    )


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """Wide enough for products with weights to dominate."""
    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_key_value_heads": 4}
    return make_model("llama", **sizes)


def workload(model: LanguageModel, requests: list[EditRequest], **changes: Any) -> Workload:
    values = {
        "edits": len(requests),
        "editor": resolve_editor("MEMIT"),
        "schedule": Schedule.ONE_SHOT,
        "hyperparameters": SETTINGS,
        "tokens": 600,
        "own_text": False,
        "texts": texts_of(model, requests),
    }
    return Workload(**{**values, **changes})


def amount(model: LanguageModel, work: Workload, stage: str) -> float:
    return estimate(ModelShape.of(model.hf, model.structure), work)[stage].amount


@pytest.mark.parametrize("schedule", list(Schedule))
def test_operations_of_keys_match_torch(model: LanguageModel, schedule: Schedule) -> None:
    exchanges = [[1], [2]] if schedule is Schedule.LAYERWISE else [[1, 2]]
    operations = counted(lambda: [measure(model, REQUESTS, CONTEXTS, ls, 2) for ls in exchanges])
    work = workload(model, REQUESTS, schedule=schedule)
    assert amount(model, work, "keys") == pytest.approx(operations, rel=0.1)


def test_operations_of_targets_match_torch(model: LanguageModel) -> None:
    operations = counted(lambda: optimise_targets(model, DISTINCT, CONTEXTS, SETTINGS, quick=False))
    assert amount(model, workload(model, DISTINCT), "targets") == pytest.approx(operations, rel=0.3)


def test_operations_of_fine_tuning_match_torch(model: LanguageModel) -> None:
    settings = SETTINGS.with_changes(layers=(1,))
    operations = counted(lambda: fine_tune(model, DISTINCT, settings))
    work = workload(model, DISTINCT, editor=resolve_editor("FT-L"), hyperparameters=settings)
    assert amount(model, work, "targets") == pytest.approx(operations, rel=0.15)


@pytest.mark.parametrize("budget", [None, 1_200_000])
def test_operations_of_the_covariance_match_torch(
    model: LanguageModel, monkeypatch: Any, budget: int | None
) -> None:
    corpus = TextCorpus("sentences", {}, lambda: CORPUS * 30)
    monkeypatch.setattr(model, "memory_budget", budget)
    operations = counted(
        lambda: collect(model, [1, 2], corpus, tokens=600, batch_tokens=512, say=lambda _: None)
    )
    work = workload(model, REQUESTS, memory_budget=budget)
    assert amount(model, work, "covariance") == pytest.approx(operations, rel=0.1)


def test_operations_of_evaluation_match_torch(model: LanguageModel) -> None:
    """Prompts have no common beginning, since that would be computed only once."""
    requests = [
        EditRequest(each.case_id, "{} is the capital of", f"{each.subject[-1]}aly", "Paris")
        for each in DISTINCT
    ]
    records = [Record(request) for request in requests]
    operations = counted(lambda: evaluate(model, records))
    one_time = amount(model, workload(model, requests), "evaluation") / 2
    assert one_time == pytest.approx(operations, rel=0.3)


def test_merge_operations_match_a_count_by_hand(model: LanguageModel) -> None:
    d, n = 320, len(DISTINCT)
    expected = 2 * (d**3 / 3 + 2 * d * d * n + 2 * d * n * n)
    assert amount(model, workload(model, DISTINCT), "merge") == pytest.approx(expected)


def test_the_shape_needs_no_weights(model: LanguageModel, tmp_path: Any) -> None:
    model.hf.save_pretrained(tmp_path)
    bare = load_structure_only(str(tmp_path))
    assert {p.device.type for p in bare.parameters()} == {"meta"}
    shape = ModelShape.of(bare, model.structure)
    assert shape == ModelShape.of(model.hf, model.structure)
    assert shape.numbers == sum(p.numel() for p in model.hf.parameters())
    assert shape.layer_numbers == 4 * 128 * 128 + 3 * 128 * 320
    assert shape.key_value == 128


def test_shapes_of_all_families(family_model: LanguageModel) -> None:
    shape = ModelShape.of(family_model.hf, family_model.structure)
    assert shape.layers == 4
    assert shape.mlp * shape.hidden < shape.layer_numbers < shape.numbers


@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_mixtures_use_a_part_of_their_numbers(family: str) -> None:
    """A token uses two of four experts; each has its own second moments."""
    model = make_model(family)
    shape = ModelShape.of(model.hf, model.structure)
    assert (shape.mlp, shape.width, shape.active) == (48, 12, 24)
    assert shape.idle_numbers == 2 * 3 * 12 * 32
    layer = sum(p.numel() for p in model.layer(1).parameters() if p.ndim > 1)
    assert shape.layer_numbers + shape.idle_numbers == layer
    work = workload(model, DISTINCT)
    rank = len(DISTINCT)
    expected = 2 * (4 * 12**3 / 3 + 2 * 4 * 12**2 * rank + 2 * 48 * rank**2)
    assert amount(model, work, "merge") == pytest.approx(expected)


LARGE = ModelShape(1_540_000_000, 46_800_000, 28, 1536, 8960, 151936, 256)


def large(**changes: Any) -> Workload:
    values = {
        "edits": 100,
        "editor": resolve_editor("MEMIT"),
        "schedule": Schedule.LAYERWISE,
        "hyperparameters": Hyperparameters(layers=(5, 6, 7, 8, 9)),
        "tokens": 89_600,
        "itemsize": 2,
    }
    return Workload(**{**values, **changes})


def test_a_budget_takes_matrices_one_at_a_time() -> None:
    free = estimate(LARGE, large())
    tight = estimate(LARGE, large(memory_budget=10**9))
    matrix = 8 * 8960**2
    assert free["covariance"].memory - tight["covariance"].memory > 4 * 1.3 * matrix
    assert free["merge"].memory - tight["merge"].memory == pytest.approx(5 * 2 * matrix)
    assert tight["covariance"].amount > free["covariance"].amount  # more passes
    assert peak(tight)[1] < 8e9 < peak(free)[1]


def test_memory_and_time_grow_with_the_work() -> None:
    base = estimate(LARGE, large())
    for more in (large(edits=200), large(tokens=180_000), large(itemsize=4)):
        costs = estimate(LARGE, more)
        assert all(costs[stage].memory >= base[stage].memory for stage in STAGES)
        assert any(costs[stage].amount > base[stage].amount for stage in STAGES)


def test_a_quick_search_takes_its_copy_and_longer_passes() -> None:
    def memory(edits: int, **changes: Any) -> float:
        return estimate(LARGE, large(itemsize=4, edits=edits, **changes))["targets"].memory

    few = memory(2, quick=True) - memory(2)  # tokens fit into the shorter pass
    assert few == LARGE.quick_copy_bytes
    shorter_pass = memory(100) - memory(100, memory_budget=1) + 1
    assert memory(100, quick=True) - memory(100) == pytest.approx(few + shorter_pass, rel=1e-9)


@pytest.mark.parametrize("editor", [each.name for each in editors()])
def test_stages_are_those_of_the_editor(editor: str) -> None:
    rules = resolve_editor(editor)
    costs = estimate(LARGE, large(editor=rules, hyperparameters=Hyperparameters(layers=(7,))))
    without = set() if rules.has_statistics else {"covariance", "keys", "merge"}
    assert set(costs) == set(STAGES) - without
    assert all(cost.memory > 3e9 and cost.amount > 0 for cost in costs.values())
    assert "covariance" not in estimate(LARGE, large(tokens=0))


def test_the_peak_is_that_of_the_largest_stage() -> None:
    assert peak({"load": Cost(5, 1), "merge": Cost(7, 1)}) == ("merge", 7)


def test_remedies_are_the_mildest_that_fit() -> None:
    work = large(itemsize=4, quick=True)
    needed = peak(estimate(LARGE, work))[1]
    mild = remedy(LARGE, work, 0.9 * needed)
    assert mild.advice.startswith("--memory-budget")
    assert mild.memory is not None
    assert mild.memory <= 0.9 * needed
    half = remedy(LARGE, work, 7.5e9)
    assert half.advice.startswith("--dtype bfloat16")
    assert half.memory is not None
    assert half.memory <= 7.5e9
    assert "--device auto" in remedy(LARGE, work, 1e9).advice
