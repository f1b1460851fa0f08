"""Sphinx configuration; `make docs` builds the site into build/docs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from collabedit import __version__

project = "collabedit"
author = "The collabedit authors"
copyright = "the collabedit authors, Apache-2.0"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "references",
]
exclude_patterns = ["_extensions"]
html_theme = "furo"
html_title = f"collabedit {version}"
html_static_path = ["images"]
html_theme_options = {"source_view_link": ""}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r"\$ "
copybutton_exclude = ".linenos, .gp, .go"
copybutton_line_continuation_character = "\\"

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True
# There is no network while building, so names of other packages cannot be resolved. Within
# collabedit, annotations name types by their short names.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!collabedit\.).*"),
    (r"py:mod", r"collabedit\.\w+\.\w+"),
    (r"py:(class|data|obj)", r"collabedit\.[\w.]+\.[A-Z]\w*"),
]
