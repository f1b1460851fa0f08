"""Many clients edit once, as ``collabedit run single-round`` does."""

from experiments._translate import main

if __name__ == "__main__":
    main("merging_singleRound")
