"""Conflicting edits, as ``collabedit run conflict`` does."""

from experiments._translate import main

if __name__ == "__main__":
    main("Conflict")
