"""Settings of the documentation site: `make docs` builds it into out/site.

The repository's root is the source folder: pages link to one another, and to files, as they do on a forge.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from cofm_triton import __version__

sys.path.insert(0, str(Path(__file__).parent))

project, author, copyright = "cofm_triton", "The cofm_triton authors", "The cofm_triton authors"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "sphinx_copybutton",
    "commands", "mathml", "notebooks",
]  # fmt: skip
root_doc = "docs/index"
include_patterns = ["docs/**", "bench/*.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "out", "cofm_triton", "reference", "tests", "dist", "bench/peers", "**/__pycache__"]
suppress_warnings = ["epub"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# Docstrings write code, and names of arguments, in single backticks.
default_role = "code"
autodoc_typehints = "none"  # types are in the signature's annotations and, with shapes, in the text
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True
smartquotes = False  # names of options are code
nitpicky = True
nitpick_ignore = [("py:class", "torch.Tensor")]

html_theme = "furo"
html_title = f"cofm_triton {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]  # what a visitor of the root is shown: the first page
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def keep_bars(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Bars in docstrings, `|x|`, are what they look like: reStructuredText would look for a substitution."""
    lines[:] = [re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", line) for line in lines]


def setup(app: Sphinx) -> None:
    """What the settings above cannot say."""
    app.connect("autodoc-process-docstring", keep_bars)
