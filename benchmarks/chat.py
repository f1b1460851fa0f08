"""What users see of an edited model: every record asked raw and in the chat template.

``python -m benchmarks.chat`` writes records in batches, each into the unedited model, once in the
contexts of the papers and once in conversations as well, as ``collabedit edit`` does, and prints
both beside the unedited model. Each batch is split over ``--parties`` parties and merged; for the
first batch, the pooled edit is asked too, and its answers are compared word by word. Finished
batches are kept in ``--results``, so that an interrupted run can continue.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collabedit.collaboration import distance, edit_and_ask, merge_edits
from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset
from collabedit.editing import default_contexts, sample_contexts
from collabedit.editors import default_hyperparameters
from collabedit.evaluation import Answer, answer_records, evaluate, summarise
from collabedit.evaluation.forms import FORMS
from collabedit.files import write_json
from collabedit.merging import POOLED, resolve_method
from collabedit.messages import Delta, RoundConfig
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round
from collabedit.requests import Record
from collabedit.rounds import static_priors

CONTEXTS = {"papers": sample_contexts, "conversations": default_contexts}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.chat", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dataset", default="worldfacts", help="a data set's name or a file")
    parser.add_argument("--limit", type=int, help="only the first records")
    parser.add_argument("--batch", type=int, default=32, help="edits at once")
    parser.add_argument("--parties", type=int, default=2)
    parser.add_argument("--contexts", nargs="+", choices=CONTEXTS, default=list(CONTEXTS))
    parser.add_argument(
        "--retry", action="store_true", help="as collabedit edit does with edits that did not take"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="hyper-parameters to change"
    )
    parser.add_argument("--tokens", type=int, help="of the covariance; by default the model's own")
    parser.add_argument("--results", type=Path, default=Path("results/chat"))
    given = parser.parse_args()
    records = load_dataset(given.dataset)[: given.limit]
    model = load_model(given.model)
    batches = [records[i : i + given.batch] for i in range(0, len(records), given.batch)]
    settings = default_hyperparameters(model.name, model.structure).hyperparameters
    changes = {name: json.loads(value) for name, _, value in (s.partition("=") for s in given.set)}
    settings = settings.with_changes(**changes)
    parts = [model.name.replace("/", "_"), Path(given.dataset).stem, len(records), given.batch]
    parts += ["retry"] * given.retry
    parts += [f"{given.tokens}-tokens"] if given.tokens else []
    folder = given.results / "-".join(map(str, [*parts, *given.set]))
    columns = {
        "unedited": [_unedited(model, b, folder / f"{i}.json") for i, b in enumerate(batches)]
    }
    for contexts in given.contexts:
        templates = CONTEXTS[contexts](model, 0)
        config = new_round(model, contexts=templates, hyperparameters=settings)
        columns[contexts] = [
            _edited(model, batch, config, given, folder / f"{i}-{contexts}.json", first=i == 0)
            for i, batch in enumerate(batches)
        ]
    _print(columns)


def _unedited(model: LanguageModel, records: Sequence[Record], path: Path) -> Any:
    if not path.is_file():
        write_json(path, _measured(model, records))
    return json.loads(path.read_text())


def _edited(
    model: LanguageModel,
    records: Sequence[Record],
    config: RoundConfig,
    given: argparse.Namespace,
    path: Path,
    *,
    first: bool,
) -> Any:
    if not path.is_file():
        covariance = default_covariance(model, config.layers, tokens=given.tokens)
        shares = [list(records[i :: given.parties]) for i in range(given.parties)]
        parties = Party.together(model, [[r.request for r in share] for share in shares], config)
        priors = static_priors(config, covariance)

        def merge(method: str) -> Delta:
            chosen = resolve_method(method)
            if not given.retry:
                return merge_edits(chosen, parties, config, priors).delta
            flat = [record for share in shares for record in share]
            return edit_and_ask(chosen, parties, flat, config, covariance, retry=True)[0]

        merged = merge("CollabEdit")
        result = _asked(model, records, merged)
        if first and not given.retry:  # which would take the longest part again
            pooled = merge(POOLED)
            result["distance"] = distance(merged, pooled)
            result["same"] = _asked(model, records, pooled)["answers"] == result["answers"]
        write_json(path, result)
    return json.loads(path.read_text())


def _asked(model: LanguageModel, records: Sequence[Record], delta: Delta) -> dict[str, Any]:
    with model.edited(delta.changes):
        return _measured(model, records)


def _measured(model: LanguageModel, records: Sequence[Record]) -> dict[str, Any]:
    return {"cases": evaluate(model, records), "answers": answer_records(model, records)}


def _print(columns: dict[str, list[Any]]) -> None:
    rows: dict[str, list[str]] = defaultdict(list)
    known = _known(columns["unedited"])
    for batches in columns.values():
        summary = summarise([case for batch in batches for case in batch["cases"]])
        for key, value in summary.items():
            if key != "records":
                rows[key].append(f"{value:.1f}")
        by_form = _by_form(batches)
        for form in FORMS:
            answers = by_form.get(form.key, {})
            if form.wants != "new":
                rows[f"{form.key}: kept of those right before"].append(
                    _share([a["right"] for key, a in answers.items() if key in known])
                )
                continue
            for field in ("right", "about", "ended"):
                rows[f"{form.key}: {field}"].append(_share([a[field] for a in answers.values()]))
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
    for name, batches in columns.items():
        if "distance" in batches[0]:
            same = "the same answers" if batches[0]["same"] else "OTHER ANSWERS"
            print(f"{name}: distance to pooled editing {batches[0]['distance']:.1e}, {same}")


#: The indices of a batch, a record in it, and an answer about that.
_Key = tuple[int, int, int]


def _by_form(batches: Sequence[Any]) -> dict[str, dict[_Key, Answer]]:
    by_form: dict[str, dict[_Key, Answer]] = defaultdict(dict)
    for number, batch in enumerate(batches):
        for record, answers in enumerate(batch["answers"]):
            for index, answer in enumerate(answers):
                by_form[answer["form"]][number, record, index] = answer
    return by_form


def _known(batches: Sequence[Any]) -> set[_Key]:
    """The answers that the unedited model gets right."""
    return {key for by in _by_form(batches).values() for key, a in by.items() if a["right"]}


def _share(hits: Sequence[bool]) -> str:
    return f"{100 * sum(hits) / len(hits):.1f} ({sum(hits)}/{len(hits)})" if hits else "-"


if __name__ == "__main__":
    main()
