"""The course as a static site (`make book`): pages as they are. Nothing runs, nothing loads from outside."""

project = html_title = "mrtutor"
author = "The mrtutor authors"
extensions = ["myst_nb", "sphinx_external_toc", "sphinx-mathjax-offline"]
external_toc_path = "book/_toc.yml"
external_toc_exclude_missing = True  # what is not in the contents is no page: no test, no model card
exclude_patterns = [".*", "outputs"]
suppress_warnings = ["myst.xref_missing"]  # links to folders
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
html_theme = "sphinx_book_theme"
html_theme_options = {"navbar_persistent": [], "extra_footer": "Synthetic and simulated pictures. Not for diagnosis."}
html_static_path = html_css_files = ["style.css"]
