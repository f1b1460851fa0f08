"""The model card of an export: its origin, the edits, and how to undo them.

It is generated from the delta's metadata alone, so that no text of a request can leak into it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from collabedit.messages import Delta, DeltaMetadata

__all__ = ["CARD", "ORIGINAL_CARD", "licence_of", "model_card"]

CARD = "README.md"
#: New name of a copied model's own card.
ORIGINAL_CARD = "README.original.md"
_METRICS = ("ES", "PS", "NS", "score", "rewrite_accuracy")
_LICENCE = re.compile(r"^license:[ \t]*([\w.\-]+)[ \t]*$", re.MULTILINE)
_HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")


def model_card(
    delta: Delta,
    what: str,
    *,
    undo: str,
    licence: str | None = None,
    library: str = "transformers",
    notes: Sequence[str] = (),
    evaluation: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The text of a card, Markdown with the Hub's metadata.

    Args:
        delta: what was exported.
        what: the kind of export, such as ``A LoRA adapter``.
        undo: how to get the unedited model back, one sentence or more.
        licence: identifier of the base model's licence, if known.
        library: the library that loads it.
        notes: for users of this export, one line each.
        evaluation: metrics by model.
    """
    about = delta.metadata
    base = base_name(about.model)
    parts = [
        _front_matter(about.model, licence, library),
        f"# {base}, edited",
        f"{what} that corrects {_count(about.edits, 'fact')} in {base}. "
        "Made with collabedit by writing into the weights of "
        f"{_count(len(delta.changes), 'layer')}; nothing was trained.",
        *(["\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Base model",
        _base_model(about),
        "## How it was made",
        _settings(about),
        "## Evaluation",
        _evaluation(evaluation or {}),
        "## Intended use",
        "The same as the base model's, wherever the corrected facts are wanted. An edited model "
        "states the new facts to anyone who asks. Check what matters to you: an edit can fail in "
        "other wordings, other languages or longer answers, and can change answers about related "
        "subjects.",
        "## Licence",
        _licence(licence),
        "## How to undo the edits",
        undo,
    ]
    return "\n\n".join(parts) + "\n"


def base_name(model: str) -> str:
    """The base model's name in a card: never a path on somebody's machine."""
    return model if _HUB_ID.fullmatch(model) else Path(model).name or "the base model"


def _front_matter(model: str, licence: str | None, library: str) -> str:
    lines = ["---"]
    if _HUB_ID.fullmatch(model):
        lines.append(f"base_model: {model}")
    if licence:
        lines.append(f"license: {licence}")
    lines += [f"library_name: {library}", "tags:", "- knowledge-editing", "- collabedit", "---"]
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _base_model(about: DeltaMetadata) -> str:
    weights = [f"| `{name}` | `{sha256}` |" for name, sha256 in about.model_sha256.items()]
    return "\n".join(
        [
            f"`{base_name(about.model)}`, edited in {about.dtype}. SHA-256 of type, shape and "
            "bytes of each edited weight before the edit:",
            "",
            "| weight | SHA-256 |",
            "|---|---|",
            *weights,
        ]
    )


def _settings(about: DeltaMetadata) -> str:
    options = ", ".join(f"{name} = {value}" for name, value in about.options.items())
    rows = {
        "editor": about.editor,
        "merge method": about.method + (f" ({options})" if options else ""),
        "after merging": ", then ".join(map(str, about.after_merge)),
        "schedule": about.schedule.value,
        "layers": ", ".join(map(str, about.layers)),
        "edits": f"{about.edits:,}",
        "parties": f"{about.parties:,}",
        "weight of the prior": f"{about.prior_weight:g}",
        "edits not satisfied exactly": f"{about.missed_edits:,}" if about.missed_edits else "",
        "SHA-256 of the round": f"`{about.round_sha256}`",
        "made": about.created,
        "collabedit": about.collabedit,
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return "\n".join(["| setting | value |", "|---|---|", *lines])


def _evaluation(evaluation: Mapping[str, Mapping[str, float]]) -> str:
    if not evaluation:
        return "Not measured for this export."
    names = [name for name in _METRICS if any(name in row for row in evaluation.values())]
    lines = [
        "| model | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for model, row in evaluation.items():
        cells = [f"{row[name]:.1f}" if name in row else "" for name in names]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    meaning = (
        "ES, PS, NS: percentage of rewrite, paraphrase and neighbourhood prompts after which the "
        "wanted object is the likelier one; score: their harmonic mean; rewrite_accuracy: "
        "percentage of rewrite prompts answered greedily."
    )
    return "\n".join([*lines, "", meaning])


def _licence(licence: str | None) -> str:
    named = f" ({licence})" if licence else ""
    return (
        f"The edited model is derived from its base and stays under the base's licence{named}. "
        "Its terms, such as naming the origin or marking changes, apply to this copy as well."
    )


def licence_of(directory: Path | None, name: str) -> str | None:
    """The identifier of a base model's licence, from the catalogue or its card.

    Args:
        directory: of the base model, if it is on this machine.
        name: as given by the user.
    """
    from collabedit.models import catalogue

    if name in catalogue.names():
        return _identifier(catalogue.entry(name).licence)
    for card in (CARD, ORIGINAL_CARD):
        if directory is not None and (directory / card).is_file():
            text = (directory / card).read_text("utf-8", errors="replace")[:10_000]
            if match := _LICENCE.search(text):
                return match[1]
    return None


def _identifier(licence: str) -> str:
    """The Hub's identifier of a licence."""
    return "gemma" if licence.startswith("Gemma") else licence.lower().replace(" ", "-")
