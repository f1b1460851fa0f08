"""Run the benchmarks: ``python -m benchmarks [STAGE ...]``, all of them by default."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from benchmarks.machine import print_machine

STAGES = ("startup", "keys", "targets", "covariance", "merge", "evaluation", "growth", "gpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    stages = parser.parse_args().stages or STAGES
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    print_machine()
    failed = [stage for stage in stages if not _passes(stage)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _passes(stage: str) -> bool:
    print(f"== {stage}", flush=True)
    sys.argv = [f"benchmarks.{stage}"]  # each with its own defaults
    try:
        import_module(f"benchmarks.{stage}").main()
    except SystemExit as problem:
        if problem.code:
            print(f"FAILED: {problem.code}\n", flush=True)
            return False
    print(flush=True)
    return True


if __name__ == "__main__":
    main()
