"""Forgetting under the static covariance, as ``collabedit run forgetting --beta 0`` does."""

from experiments._translate import main

if __name__ == "__main__":
    main("multiround")
