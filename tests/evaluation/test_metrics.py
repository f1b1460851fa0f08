from __future__ import annotations

import math

import pytest

from collabedit.errors import UnknownNameError
from collabedit.evaluation import (
    Metric,
    Summary,
    metric,
    metrics,
    register_metric,
    summarise,
)
from collabedit.evaluation.cases import CaseResult, Probabilities
from collabedit.reporting.results import SingleRoundResult
from collabedit.reporting.tables import methods_table


def probs(*pairs: tuple[float, float]) -> list[Probabilities]:
    return [{"target_new": new, "target_true": true} for new, true in pairs]


def case(**fields: object) -> CaseResult:
    return {"case_id": 0, "kind": "counterfact", **fields}  # type: ignore[typeddict-item]


GOOD, BAD = (1.0, 2.0), (2.0, 1.0)


def test_the_fields_metrics_by_hand() -> None:
    results = [
        case(
            rewrite_prompts_probs=probs(GOOD),
            paraphrase_prompts_probs=probs(GOOD, BAD),
            neighborhood_prompts_probs=probs(BAD, BAD, GOOD, BAD),
            rewrite_prompts_correct=[True],
            paraphrase_prompts_correct=[False, False],
            neighborhood_prompts_correct=[True, False, False, False],
        ),
        case(
            rewrite_prompts_probs=probs(BAD),
            paraphrase_prompts_probs=probs(BAD, GOOD),
            neighborhood_prompts_probs=probs(GOOD, GOOD, GOOD, BAD),
            rewrite_prompts_correct=[False],
            paraphrase_prompts_correct=[True, False],
            neighborhood_prompts_correct=[False, False, False, False],
        ),
    ]
    assert summarise(results) == {
        "records": 2,
        "ES": 50.0,
        "PS": 50.0,
        "NS": 50.0,
        "score": pytest.approx(50.0),
        "rewrite_accuracy": 50.0,
        "paraphrase_accuracy": 25.0,
        "neighborhood_accuracy": 12.5,
    }


def test_a_record_counts_once_however_many_prompts_it_has() -> None:
    results = [
        case(paraphrase_prompts_probs=probs(GOOD)),
        case(paraphrase_prompts_probs=probs(BAD, BAD, BAD)),
        case(paraphrase_prompts_probs=[]),
    ]
    assert summarise(results) == {"records": 3, "PS": 50.0}


def test_equal_probabilities_are_not_a_success() -> None:
    tie = probs((1.0, 1.0))
    summary = summarise([case(rewrite_prompts_probs=tie, neighborhood_prompts_probs=tie)])
    assert (summary["ES"], summary["NS"]) == (0.0, 0.0)


def test_the_score_is_a_harmonic_mean_and_zero_if_a_part_is() -> None:
    def with_neighbours(*pairs: tuple[float, float]) -> Summary:
        return summarise(
            [
                case(
                    rewrite_prompts_probs=probs(GOOD),
                    paraphrase_prompts_probs=probs(GOOD, BAD),
                    neighborhood_prompts_probs=probs(*pairs),
                )
            ]
        )

    expected = 3 / (1 / 100 + 1 / 50 + 1 / 25)
    assert with_neighbours(BAD, GOOD, GOOD, GOOD)["score"] == pytest.approx(expected)
    assert with_neighbours(GOOD, GOOD)["score"] == 0.0


def zsre(rewrite: list[bool], paraphrase: list[bool], neighborhood: list[bool]) -> CaseResult:
    return {
        "case_id": 1,
        "kind": "zsre",
        "rewrite_prompts_correct": rewrite,
        "paraphrase_prompts_correct": paraphrase,
        "neighborhood_prompts_correct": neighborhood,
    }


def test_zsre_is_measured_by_tokens() -> None:
    results = [
        zsre([True, True], [True, False], [False, False, False, True]),
        zsre([True], [False], [True]),
    ]
    assert summarise(results) == {
        "records": 2,
        "rewrite_token_accuracy": 100.0,
        "paraphrase_token_accuracy": 25.0,
        "neighborhood_token_accuracy": 62.5,
        "score": pytest.approx(3 / (1 / 100 + 1 / 25 + 1 / 62.5)),
    }


def test_mixed_kinds_have_no_common_score() -> None:
    full = probs(GOOD)
    counterfact = case(
        rewrite_prompts_probs=full,
        paraphrase_prompts_probs=full,
        neighborhood_prompts_probs=probs(BAD),
    )
    assert "score" in summarise([counterfact])
    mixed = summarise([counterfact, zsre([True], [True], [True])])
    assert mixed["ES"] == 100.0
    assert mixed["rewrite_token_accuracy"] == 100.0
    assert "score" not in mixed


def test_generations_are_averaged() -> None:
    results = [case(ngram_entropy=6.0, reference_score=0.25), case(ngram_entropy=5.0)]
    assert summarise(results) == {"records": 2, "fluency": 550.0, "consistency": 25.0}


def test_no_results() -> None:
    assert summarise([]) == {"records": 0}


def test_every_metric_is_defined() -> None:
    for each in metrics():
        assert each.definition
        assert each.heading
        assert metric(each.key) is each
    assert len({each.key for each in metrics()}) == len(metrics())
    with pytest.raises(UnknownNameError, match="unknown metric 'BLEU'; choose one of: ES, PS, NS"):
        metric("BLEU")


def test_a_level_shows_what_the_shorter_ones_show() -> None:
    headline, comparison = ([m.key for m in metrics(level)] for level in ("headline", "comparison"))
    assert headline[:4] == ["ES", "PS", "NS", "score"]
    assert [key for key in comparison if key in headline] == headline
    assert {"fluency", "perplexity"} <= set(comparison)
    assert "rewrite_accuracy" not in comparison
    assert [m for m in metrics() if m.level != "detail"] == metrics("comparison")


@pytest.fixture
def certainty(own_registries: None) -> Metric:
    """A custom metric, registered through the public interface alone."""

    def values(result: CaseResult) -> list[float]:
        return [math.exp(-each["target_new"]) for each in result["rewrite_prompts_probs"]]

    return register_metric(Metric("certainty", "P(new)", "mean P(new object)", values=values))


def test_a_custom_metric_is_summarised_and_shown(certainty: Metric) -> None:
    summary = summarise([case(rewrite_prompts_probs=probs((math.log(4), 1.0)))])
    assert summary[certainty.key] == pytest.approx(25.0)
    table = methods_table(SingleRoundResult(methods={"x": summary}), "t")
    assert "P(new)" in [column.heading for column in table.columns]
