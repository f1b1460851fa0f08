"""Forgetting under the dynamic covariance, as ``collabedit run forgetting`` does."""

from experiments._translate import main

if __name__ == "__main__":
    main("C_1")
