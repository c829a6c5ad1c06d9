"""Sphinx settings of the site: `docs/build.py` stages its pages. Nothing is executed or downloaded."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

project = "mvnb"
author = copyright = "The mvnb maintainers"
release = version = installed("mvnb")

extensions = ["myst_nb", "sphinx_design", "sphinx_copybutton", "mathml"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # nothing on the pages needs a widget, and the scripts would come over the network
smartquotes = False  # quotes in docstrings are code
nb_merge_streams = True
exclude_patterns = ["files/**"]
suppress_warnings = ["mystnb.unknown_mime_type"]
nitpicky = True  # a name without its entry is a warning

html_theme = "furo"
html_title = "mvnb"
html_static_path = [str(DOCS / "_static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "native"
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
