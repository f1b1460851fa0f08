"""Fuzz every parser of foreign bytes, guided by the code that each input reaches.

    pip install --group fuzz      (atheris; Linux, CPython 3.11 to 3.13)
    python -m tools.fuzz [--seconds 60] [--corpus build/fuzz] [TARGET ...]

Each target runs in a separate process and starts from good bytes (``tests/fuzz/parsers.py``) and
from the inputs that earlier runs found worth keeping. An input that is neither read nor properly
refused is kept in the corpus as ``crash-...``, and the exit status is 1; to see what happens, give
the file as the only argument after ``--replay TARGET``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: Packages to instrument: ours, and others that parse in Python.
INSTRUMENTED = ["collabedit", "zipfile", "yaml", "csv"]
LONGEST, SLOWEST, MEGABYTES = 1 << 16, 20, 6000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--replay", metavar="TARGET", help="read one file with a target")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        fuzz(options.inside, options.corpus, options.seconds)
    elif options.replay is not None:
        replay(options.replay, Path(*options.targets))
    else:
        sys.exit(run_all(options.targets, options.corpus, options.seconds, options.jobs))


def run_all(asked: list[str], corpus: Path, seconds: int, jobs: int) -> int:
    """Run targets, several at a time; returns 1 if any of them found something."""
    from tests.fuzz.parsers import parsers

    known = [parser.name for parser in parsers()]
    if unknown := set(asked) - set(known):
        sys.exit(f"no such target: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    with ThreadPoolExecutor(jobs) as executor:
        passed = executor.map(lambda name: run_target(name, corpus, seconds), asked or known)
        return 0 if all(list(passed)) else 1


def run_target(name: str, corpus: Path, seconds: int) -> bool:
    """Run one target in its own process, and print what came of it; whether it found nothing."""
    command = [sys.executable, "-m", "tools.fuzz", "--inside", name]
    command += ["--corpus", str(corpus), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        runs = re.search(r"executed_units: *(\d+)", done.stderr)
        print(f"{name}: {int(runs.group(1)) if runs else 0:,} inputs, nothing found", flush=True)
        return True
    said = [line for line in done.stderr.splitlines() if not line.startswith("#")]
    print("\n".join([f"{name}: FAILED", done.stdout, *said[-60:]]), flush=True)
    return False


def fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Fuzz one target; ends the process."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.parsers import parsers

    (parser,) = (candidate for candidate in parsers() if candidate.name == name)
    folder = corpus / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    for good in parser.good:
        (folder / hashlib.sha1(good).hexdigest()).write_bytes(good)
    arguments = [
        sys.argv[0],
        str(folder),
        f"-max_total_time={seconds}",
        f"-max_len={max(LONGEST, *map(len, parser.good))}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    mutator = {"custom_mutator": mutated} if _has_header(parser.good[0]) else {}
    atheris.Setup(arguments, parser.try_to_read, **mutator)
    atheris.Fuzz()


def mutated(data: bytes, longest: int, seed: int) -> bytes:
    """Mutate safetensors, often only the header, keeping its length field correct."""
    import atheris

    mutate: Callable[[bytes, int], bytes] = atheris.Mutate
    if not _has_header(data) or random.Random(seed).random() < 0.3:
        return mutate(data, longest)
    (size,) = struct.unpack("<Q", data[:8])
    header, arrays = data[8 : 8 + size], data[8 + size :]
    room = longest - 8 - len(arrays)
    if room < 1:
        return mutate(data, longest)
    header = mutate(header, room)
    return struct.pack("<Q", len(header)) + header + arrays


def _has_header(data: bytes) -> bool:
    return len(data) > 8 and 0 < struct.unpack("<Q", data[:8])[0] <= len(data) - 8


def replay(name: str, path: Path) -> None:
    """Read a file with a target, and print the result."""
    from tests.fuzz.parsers import parsers

    (parser,) = (candidate for candidate in parsers() if candidate.name == name)
    parser.try_to_read(path.read_bytes())
    print(f"{name}: {path} is read, or properly refused")


if __name__ == "__main__":
    main()
