"""Several facts about one subject: how many take, by their number and by who holds them.

``python -m benchmarks.subjects`` writes one, two or four facts about each of eight countries into
the unedited model. Either one party holds all facts about a country, or as many parties hold one
each. With ``--alike`` the prompts are the same up to the subject's end, so that a party finds one
change for all of them, and several parties find their changes independently.
"""

from __future__ import annotations

import argparse
from itertools import product

from collabedit.collaboration import merge_edits
from collabedit.covariance import default_covariance
from collabedit.evaluation import ask_edits
from collabedit.merging import resolve_method
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round
from collabedit.requests import EditRequest, Record
from collabedit.rounds import static_priors

COUNTRIES = ("France", "Japan", "Brazil", "Kenya", "Poland", "Canada", "Greece", "Vietnam")
FACTS = (
    ("P36", ("Oslo", "Lima", "Cairo", "Madrid")),
    ("P37", ("Dutch", "Arabic", "Korean", "Swedish")),
    ("P38", ("rupee", "krona", "peso", "ruble")),
    ("P30", ("Antarctica", "Oceania")),
)
PROMPTS = (
    "The capital of {} is",
    "The official language of {} is",
    "The currency of {} is the",
    "{} is located on the continent of",
)
ALIKE = (
    "{}'s capital city is",
    "{}'s official language is",
    "{}'s currency is the",
    "{} is located on the continent of",
)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.subjects", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=int, nargs="+", default=[1, 2, 4], help="of each country")
    parser.add_argument("--alike", action="store_true", help="with the subjects first")
    given = parser.parse_args()
    prompts = ALIKE if given.alike else PROMPTS
    model = load_model(given.model)
    print("| facts of a subject | held by | edits | raw | in a chat, about the subject |")
    print("|---|---|---|---|---|")
    for facts, apart in product(given.facts, (False, True)):
        if apart and facts == 1:
            continue
        shares = [_requests(fact, prompts[fact]) for fact in range(facts)]
        if not apart:
            shares = [[request for share in shares for request in share]]
        raw, chat = _success(model, shares)
        edits = sum(map(len, shares))
        held = f"{facts} parties, one each" if apart else "one party"
        print(f"| {facts} | {held} | {edits} | {raw}/{edits} | {chat}/{edits} |", flush=True)


def _requests(fact: int, prompt: str) -> list[EditRequest]:
    relation, objects = FACTS[fact]
    return [
        EditRequest(10 * i + fact, prompt, country, objects[i % len(objects)], None, relation)
        for i, country in enumerate(COUNTRIES)
    ]


def _success(model: LanguageModel, shares: list[list[EditRequest]]) -> tuple[int, int]:
    config = new_round(model)
    priors = static_priors(config, default_covariance(model, config.layers, 0))
    parties = Party.together(model, shares, config)
    delta = merge_edits(resolve_method("CollabEdit"), parties, config, priors).delta
    records = [Record(request) for share in shares for request in share]
    with model.edited(delta.changes):
        asked = ask_edits(model, records)
    raw = sum(answer["right"] for answer, _ in asked)
    return raw, sum(chat is not None and chat["about"] for _, chat in asked)


if __name__ == "__main__":
    main()
