"""A self-contained page about finished runs, which needs no network and no server."""

from collabedit.reporting.html.page import report_page

__all__ = ["report_page"]
