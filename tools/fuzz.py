"""Fuzz every parser of foreign bytes, guided by the code that each input reaches.

    pip install --group fuzz      (atheris; Linux, CPython 3.11 to 3.13)
    python -m tools.fuzz [--seconds 60] [--corpus build/fuzz] [TARGET ...]

Each target runs in a process of its own and starts from good bytes (``tests/fuzz/parsers.py``) and
from the inputs that earlier runs found worth keeping. An input that is neither read nor properly
refused is kept in the corpus as ``crash-...``, and the exit status is 1; to see what happens, give
the file as the only argument after ``--replay TARGET``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import re
import struct
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import NoReturn

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
    options = parser.parse_args()
    if options.replay is not None:
        replay(options.replay, Path(*options.targets))
    else:
        sys.exit(run_all(options.targets, options.corpus, options.seconds, options.jobs))


def run_all(asked: list[str], corpus: Path, seconds: int, jobs: int) -> int:
    """Run targets, several at a time; returns 1 if any of them found something."""
    import atheris

    # Instrumenting takes longer than a short run: it is done once, and each target is a fork.
    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.parsers import parsers

    known = [parser.name for parser in parsers()]
    if unknown := set(asked) - set(known):
        sys.exit(f"no such target: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    waiting, running, passed = list(asked or known), dict[int, str](), True
    while waiting or running:
        if waiting and len(running) < jobs:
            name = waiting.pop(0)
            if (child := os.fork()) == 0:
                fuzz(name, corpus, seconds)
            running[child] = name
        else:
            child, status = os.wait()
            name = running.pop(child)
            clean = os.waitstatus_to_exitcode(status) == 0
            say(name, clean, _log(corpus, name))
            passed = passed and clean
    return 0 if passed else 1


def say(name: str, clean: bool, log: Path) -> None:
    """Print what came of a target."""
    written = log.read_text(errors="replace")
    if clean:
        runs = re.search(r"executed_units: *(\d+)", written)
        print(f"{name}: {int(runs.group(1)) if runs else 0:,} inputs, nothing found", flush=True)
    else:
        lines = [line for line in written.splitlines() if not line.startswith("#")]
        print("\n".join([f"{name}: FAILED", *lines[-60:]]), flush=True)


def fuzz(name: str, corpus: Path, seconds: int) -> NoReturn:
    """Fuzz one target in this process, which writes to a log from here on, and end it."""
    import atheris

    from tests.fuzz.parsers import parsers

    folder = _folder(corpus, name)
    folder.mkdir(parents=True, exist_ok=True)
    with _log(corpus, name).open("wb") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    (parser,) = (candidate for candidate in parsers() if candidate.name == name)
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
    sys.exit()  # as a proper exit, so that libFuzzer saves what it found


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


def _folder(corpus: Path, name: str) -> Path:
    return corpus / name.replace(" ", "_")


def _log(corpus: Path, name: str) -> Path:
    return corpus / f"{_folder(corpus, name).name}.log"


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
