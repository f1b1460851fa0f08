"""Data sets by name or file, and their partition over parties."""

from collabedit.datasets.catalogue import load_dataset, take
from collabedit.datasets.partition import partition

__all__ = ["load_dataset", "partition", "take"]
