"""The forms that edit requests come in: one module each, and a row of the registry."""

from collabedit.requests.formats.registry import RequestFormat, recognise, request_formats

__all__ = ["RequestFormat", "recognise", "request_formats"]
