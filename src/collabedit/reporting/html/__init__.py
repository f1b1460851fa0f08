"""One page that shows finished runs, without network and without a server."""

from collabedit.reporting.html.page import report_page

__all__ = ["report_page"]
