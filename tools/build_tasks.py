"""Build the small downstream tasks that the package ships: facts that everyone knows.

Each entry in a table is a beginning and its right ending; three wrong endings are drawn from the
same table. The same seed always gives the same bytes.

Usage::

    python tools/build_tasks.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "src/collabedit/evaluation/tasks"
WRONG = 3

CAPITALS = """
France Paris; Germany Berlin; Italy Rome; Spain Madrid; Japan Tokyo; China Beijing; Russia Moscow;
Egypt Cairo; Greece Athens; Austria Vienna; Poland Warsaw; Hungary Budapest; Portugal Lisbon;
Ireland Dublin; Norway Oslo; Sweden Stockholm; Denmark Copenhagen; Finland Helsinki; Belgium
Brussels; Turkey Ankara; Iran Tehran; Iraq Baghdad; Kenya Nairobi; Cuba Havana; Peru Lima; Chile
Santiago; Canada Ottawa; Thailand Bangkok; Vietnam Hanoi; Indonesia Jakarta; Bulgaria Sofia; Romania
Bucharest; Ukraine Kyiv; Lebanon Beirut; Syria Damascus; Jordan Amman; Nepal Kathmandu; Bangladesh
Dhaka; Ethiopia Addis_Ababa; Ghana Accra; Morocco Rabat; Tunisia Tunis; Algeria Algiers; Colombia
Bogotá; Ecuador Quito; Jamaica Kingston; Serbia Belgrade; Croatia Zagreb; Latvia Riga; Estonia
Tallinn
"""
OPPOSITES = """
hot cold; big small; up down; left right; day night; black white; good bad; old young; fast slow;
high low; wet dry; full empty; happy sad; rich poor; strong weak; hard soft; early late; open
closed; true false; long short; heavy light; thick thin; near far; loud quiet; clean dirty; sweet
sour; inside outside; first last; begin end; love hate; win lose; push pull; buy sell; give take;
north south; east west; summer winter; war peace; life death; friend enemy; question answer; male
female; brother sister; king queen; front back; always never; everything nothing; above below; wide
narrow; deep shallow
"""
EVERYDAY = """
Bees make = honey; Cows give us = milk; Hens lay = eggs; Fish live in = water; We see with our =
eyes; We hear with our = ears; We smell with our = nose; We walk on our = feet; Bread is made from
= flour; Wine is made from = grapes; Paper is made from = wood; Cheese is made from = milk; Ice is
frozen = water; The sun rises in the = east; The sun sets in the = west; A baby cat is called a =
kitten; A baby dog is called a = puppy; A week has seven = days; A year has twelve = months; An
hour has sixty = minutes; A triangle has three = sides; The planet that we live on is = Earth; The
largest planet is = Jupiter; The Earth goes around the = sun; People who are ill go to a = doctor;
Children learn to read at = school; Books are borrowed from a = library; Money is kept in a = bank;
Planes land at an = airport; Trains stop at a = station; Ships sail on the = sea; A person who
bakes bread is a = baker; A person who teaches is a = teacher; A person who flies a plane is a =
pilot; To cut paper, you use = scissors; To hit a nail, you use a = hammer; To open a lock, you
need a = key; To tell the time, you look at a = clock; When it rains, people carry an = umbrella;
Grass is = green; Blood is = red; Snow is = white; Lemons taste = sour; Sugar tastes = sweet; Fire
is = hot; At night people = sleep; Birds fly with their = wings; Spiders catch insects in their =
webs; The king of the animals is the = lion; Water is made of hydrogen and = oxygen
"""


def rows(table: str, beginning: str, separator: str | None) -> list[tuple[str, str]]:
    """Beginnings and their right endings."""
    pairs = (entry.split(separator, 1) for entry in " ".join(table.split()).split("; "))
    return [
        (beginning.format(left.strip()), right.strip().replace("_", " ")) for left, right in pairs
    ]


def items(pairs: list[tuple[str, str]], rng: random.Random) -> list[dict[str, object]]:
    """The items of a task: the right ending among wrong ones."""
    ends = sorted({end for _, end in pairs})
    made = []
    for query, right in pairs:
        choices = [right, *rng.sample([end for end in ends if end != right], WRONG)]
        rng.shuffle(choices)
        made.append({"query": query, "choices": choices, "gold": choices.index(right)})
    return made


def main() -> None:
    """Write all tasks."""
    tasks = {
        "capitals": rows(CAPITALS, "The capital of {} is", None),
        "opposites": rows(OPPOSITES, "The opposite of {} is", None),
        "everyday": rows(EVERYDAY, "{}", "="),
    }
    for name, pairs in tasks.items():
        lines = [json.dumps(item, ensure_ascii=False) for item in items(pairs, random.Random(name))]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(lines)} items")


if __name__ == "__main__":
    main()
