"""What a model is made of: loading, structure, hooks and tokens."""

from collabedit.models.language_model import LanguageModel
from collabedit.models.loading import load_model
from collabedit.models.structure import ModelStructure, infer_structure

__all__ = ["LanguageModel", "ModelStructure", "infer_structure", "load_model"]
