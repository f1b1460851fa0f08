"""Conflicts resolved by augmentation, as ``collabedit run augmentation`` does."""

from experiments._translate import main

if __name__ == "__main__":
    main("evaluate_augmentation")
