"""Finished runs as tables, as ``collabedit summarize`` does."""

from experiments._translate import main

if __name__ == "__main__":
    main("CollabEdit_summarize")
