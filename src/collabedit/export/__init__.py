"""Exporting a delta as a model directory, LoRA adapter or GGUF file, with a model card.

Each format is a decorated function in its own file; the imports below register them.
"""

from collabedit.export.base import Base
from collabedit.export.full_model import export_delta, export_model
from collabedit.export.gguf_model import export_gguf
from collabedit.export.lora import export_lora
from collabedit.export.model_directory import save_edited_model
from collabedit.export.output import Output
from collabedit.export.registry import (
    ExportFormat,
    ExportJob,
    export_format,
    export_formats,
    resolve_format,
)
from collabedit.export.undo import revert_model

__all__ = [
    "Base",
    "ExportFormat",
    "ExportJob",
    "Output",
    "export_delta",
    "export_format",
    "export_formats",
    "export_gguf",
    "export_lora",
    "export_model",
    "resolve_format",
    "revert_model",
    "save_edited_model",
]
