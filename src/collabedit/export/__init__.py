"""Turning a delta into what users ship: a model directory that plain ``transformers`` loads."""

from collabedit.export.model_directory import save_edited_model

__all__ = ["save_edited_model"]
