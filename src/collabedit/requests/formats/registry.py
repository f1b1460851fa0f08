"""The registry of forms; if several fit a record, the first one wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from collabedit.requests.fields import Fields
from collabedit.requests.formats.counterfact import flat_counterfact, multi_counterfact
from collabedit.requests.formats.easyedit import easyedit, wikibio
from collabedit.requests.formats.hallueditbench import hallueditbench
from collabedit.requests.formats.mquake import mquake
from collabedit.requests.formats.question_answer import question_answer, wikibigedit
from collabedit.requests.formats.ripple_edits import ripple_edits
from collabedit.requests.formats.short import short
from collabedit.requests.formats.zsre import zsre
from collabedit.requests.records import Record

__all__ = ["RequestFormat", "recognise", "request_formats"]


@dataclass(frozen=True)
class RequestFormat:
    """One form of a record.

    Attributes:
        name: what users know it by.
        recognise: whether an object has this form.
        parse: gives the records of an object; most forms hold one edit. Its second argument is the
            case id to use if the object has none.
        ignored: fields of the form that have no use here; any others that are not read are
            reported.
    """

    name: str
    recognise: Callable[[Mapping[str, Any]], bool]
    parse: Callable[[Fields, int], list[Record]]
    ignored: tuple[str, ...] = ()


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda item: all(name in item for name in names)


def _has_any(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda item: any(name in item for name in names)


#: Any of these distinguishes records of EasyEdit, KnowEdit and QAEdit from the short form.
_EASYEDIT_NAMES = (
    "ground_truth",
    "rephrase",
    "rephrase_prompt",
    "portability",
    "locality",
    "locality_prompt",
    "portability_prompt",
)

_FORMATS = (
    RequestFormat(
        "MQuAKE",
        lambda item: isinstance(item.get("requested_rewrite"), list),
        mquake,
        (
            *("answer", "answer_alias", "answer_extended", "new_answer_extended"),
            *("single_hops", "new_single_hops", "orig", "split", "edit_triples"),
            *("orig_triples", "orig_triples_labeled", "new_triples", "new_triples_labeled"),
        ),
    ),
    RequestFormat("CounterFact", _has("requested_rewrite"), multi_counterfact, ("pararel_idx",)),
    RequestFormat(
        "RippleEdits",
        lambda item: isinstance(item.get("edit"), Mapping) and "prompt" in item["edit"],
        ripple_edits,
        ("example_type",),
    ),
    RequestFormat(
        "CounterFact, flat",
        _has("target_false"),
        flat_counterfact,
        ("relation", "relation_prefix", "relation_suffix", "target_false_id", "target_true_id"),
    ),
    RequestFormat("zsRE", _has("src"), zsre, ("alt", "pred", "origin", "cond")),
    RequestFormat(
        "HalluEditBench",
        _has("object", "question"),
        hallueditbench,
        ("topic", "multiple_choices", "multiple_choice_with_letters", "multiple_choice_labels"),
    ),
    RequestFormat("KnowEdit WikiBio", _has("concept", "labels"), wikibio),
    RequestFormat("WikiBigEdit", _has("update", "ans"), wikibigedit, ("tag", "relation", "object")),
    RequestFormat("questions and answers", _has("question", "answer"), question_answer, ("id",)),
    RequestFormat(
        "EasyEdit",
        lambda item: "prompt" in item and _has_any(*_EASYEDIT_NAMES)(item),
        easyedit,
        ("id", "source", "cond", "relation", "sub_label", "tag"),
    ),
    RequestFormat("short form", _has_any("prompt", "target", "target_new"), short),
)


def request_formats() -> list[RequestFormat]:
    """All forms, in the order in which they are tried."""
    return list(_FORMATS)


def recognise(item: Mapping[str, Any]) -> RequestFormat | None:
    """The form of an object, or ``None``."""
    return next((form for form in _FORMATS if form.recognise(item)), None)
