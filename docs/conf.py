"""How the documentation is built: Markdown pages by Sphinx, warnings are errors (`make docs`)."""

project = "qwenops"
author = "The qwenops authors"
project_copyright = "The qwenops authors, Apache-2.0"
extensions = ["myst_parser", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "qwenops"
html_static_path: list[str] = []
