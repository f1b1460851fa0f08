"""Formats of edit requests: one module each, and a row in the registry."""

from collabedit.requests.formats.registry import RequestFormat, recognise, request_formats

__all__ = ["RequestFormat", "recognise", "request_formats"]
