"""Metrics of what edited models write (:mod:`collabedit.evaluation.answers`)."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.evaluation.answers import Answer
from collabedit.evaluation.cases import CaseResult
from collabedit.evaluation.metrics import Metric, register_metric

__all__ = ["ANSWER_METRICS"]

#: Forms in which a chat model is asked for the edit itself.
_CHAT = ("question", "complete", "example")


def _share(key: str, heading: str, definition: str, *forms: str, of: str = "right") -> Metric:
    """Share of the answers in the given forms (all by default) that have a property."""

    def values(result: CaseResult) -> Sequence[bool]:
        answers: list[Answer] = result.get("answers", [])
        return [
            bool(answer[of])  # type: ignore[literal-required]
            for answer in answers
            if of in answer and (not forms or answer["form"] in forms)
        ]

    lower = of in ("old", "loops")
    return Metric(
        f"answers_{key}",
        heading,
        f"written answers: percentage {definition}",
        direction="lower" if lower else "higher",
        values=values,
    )


#: All of them, in the order of tables.
ANSWER_METRICS: tuple[Metric, ...] = (
    _share("raw", "raw", "that hold the new object, after the prompt as edited", "raw"),
    _share("paraphrase", "paraphr.", "that hold the new object, after paraphrases", "paraphrase"),
    _share(
        "question",
        "question",
        "that hold the new object about the subject, to a question in the chat template",
        "question",
        of="about",
    ),
    _share(
        "complete",
        "complete",
        "that hold the new object about the subject, to 'Complete: PROMPT' in the chat template",
        "complete",
        of="about",
    ),
    _share(
        "example",
        "example",
        "that hold the new object about the subject, in the chat template with a system prompt and "
        "an example",
        "example",
        of="about",
    ),
    _share("subject", "subject", "that name the subject, in chat", *_CHAT, of="subject"),
    _share("old", "old", "that hold the old object, in chat", *_CHAT, of="old"),
    _share("ended", "ended", "that end within the limit, in chat", *_CHAT, of="ended"),
    _share("loops", "loops", "that end by repeating the same text three times", of="loops"),
    _share(
        "neighbour",
        "neighb.",
        "that hold the true object, for a neighbouring fact in the chat template",
        "neighbour",
    ),
    _share(
        "distracted",
        "distract.",
        "that hold the true object, for a neighbouring fact right after the edit's sentence "
        "(CounterFact+)",
        "distracted",
    ),
    _share(
        "other_facts",
        "other",
        "that hold the true object, for other facts of the subject in the chat template",
        "other_facts",
    ),
    _share(
        "follows",
        "follows",
        "that hold what the edit implies (two hops, reversed), in the chat template",
        "follows",
    ),
    _share("judged", "judged", "that the judge accepts, over all forms", of="judged"),
)

for _metric in ANSWER_METRICS:
    register_metric(_metric)
