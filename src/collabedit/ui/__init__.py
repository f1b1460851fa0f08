"""A page to try editing in a browser: edits, rounds by files, and reports.

``logic`` is the page's behaviour without a page: it needs no NiceGUI. ``access`` keeps everyone
else out, ``tabs`` has one file per tab, ``page`` puts them together, and ``server`` serves them on
this machine only.
"""
