"""Start-up: ``collabedit --help`` against importing what the commands need right away.

    python -m benchmarks.startup [--turns 5]

Prints the median seconds of the command, of an empty Python program, and of a program that imports
torch and transformers first, as scripts in this field do; and which slow packages the command has
imported. It must import none of them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import print_machine
from benchmarks.report import print_ratio, timed

HEAVY = ("torch", "transformers", "numpy", "pydantic", "safetensors", "sklearn", "matplotlib")

#: Runs the command line within Python, to see what it imports.
_LIST_IMPORTS = f"""
import sys
from collabedit.cli import main
sys.argv = ["collabedit", "--help"]
try:
    main()
except SystemExit:
    print("imported:", *({{*sys.modules}} & {{*{HEAVY}}}), file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    print_machine()
    python = [sys.executable, "-c"]
    command = median_seconds([*collabedit(), "--help"], turns)
    print(f"{'collabedit --help':<34} {command:10.3f} s   (wanted: 0.5 at most)")
    print(f"{'an empty program':<34} {median_seconds([*python, 'pass'], turns):10.3f} s")
    eager = median_seconds([*python, "import torch, transformers"], turns)
    print(f"{'import torch, transformers':<34} {eager:10.3f} s")
    print_ratio("eager imports / ours", eager / command, 1)
    imported = heavy_imports()
    print(f"packages that take long, imported: {', '.join(imported) or 'none'}")
    if imported:
        sys.exit(f"collabedit --help imports {', '.join(imported)}")


def collabedit() -> list[str]:
    """The installed command, or the module behind it."""
    script = Path(sys.executable).with_name("collabedit")
    if script.is_file():
        return [str(script)]
    return [sys.executable, "-c", "from collabedit.cli import main; main()"]


def median_seconds(command: list[str], turns: int) -> float:
    """The median time of a command, after one run to warm up the file cache."""

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    run()
    return statistics.median(timed(run)[1] for _ in range(turns))


def heavy_imports() -> list[str]:
    """Which of the heavy packages ``collabedit --help`` imports."""
    run = [sys.executable, "-c", _LIST_IMPORTS]
    result = subprocess.run(run, check=True, capture_output=True, text=True)
    return sorted(result.stderr.rpartition("imported:")[2].split())


if __name__ == "__main__":
    main()
