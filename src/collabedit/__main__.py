"""``python -m collabedit``: the command line, where the script is not on the PATH."""

from collabedit.cli import main

if __name__ == "__main__":
    main()
