"""Many clients edit in several rounds, as ``collabedit run multi-round`` does."""

from experiments._translate import main

if __name__ == "__main__":
    main("merging_multiRound")
