"""The commands of the paper's code: ``python -m experiments.NAME``, with the flags they have there.

Each reads its flags, says what they mean here and runs the study of :mod:`collabedit.experiments`;
docs/how-to/paper-commands.md lists them. The folder is not part of the installed package.
"""
