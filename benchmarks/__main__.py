"""Run the benchmarks: ``python -m benchmarks [STAGE ...]``, all of them by default.

The two that take the most time and memory come last: merge-gpt-j (half an hour, 13 GB) and large.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from benchmarks.machine import print_machine

#: The module and its arguments.
STAGES: dict[str, tuple[str, ...]] = {
    "startup": ("startup",),
    "keys": ("keys",),
    "targets": ("targets",),
    "covariance": ("covariance",),
    "merge": ("merge", "--size", "gpt2-xl"),
    "evaluation": ("evaluation",),
    "growth": ("growth",),
    "workers": ("workers",),
    "gpu": ("gpu",),
    "merge-gpt-j": ("merge", "--size", "gpt-j"),
    "large": ("large",),
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    stages = parser.parse_args().stages or list(STAGES)
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    print_machine()
    failed = [stage for stage in stages if not _passes(stage)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _passes(stage: str) -> bool:
    print(f"== {stage}", flush=True)
    module, *arguments = STAGES[stage]
    sys.argv = [f"benchmarks.{module}", *arguments]  # otherwise each with its own defaults
    try:
        import_module(f"benchmarks.{module}").main()
    except SystemExit as problem:
        if problem.code:
            print(f"FAILED: {problem.code}\n", flush=True)
            return False
    print(flush=True)
    return True


if __name__ == "__main__":
    main()
