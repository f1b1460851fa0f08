"""Run all benchmarks: ``python -m benchmarks``."""

from benchmarks import targets

if __name__ == "__main__":
    targets.main()
