"""A page to try editing in a browser: edits, rounds by files, and reports.

``logic`` is what the page does, without a page: it needs no NiceGUI. ``access`` keeps everyone else
out, ``tabs`` has a file a tab, ``page`` puts them together, and ``server`` serves them on this
machine alone.
"""
