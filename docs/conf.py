"""Configuration of the documentation site: ``make docs``."""

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import get_origin

import matplotlib
from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst
from sphinx_gallery.sorting import ExplicitOrder

import layerprobe

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
matplotlib.use("agg")


def public_data(module: str) -> list[str]:
    """Return the public names of a module that are neither functions nor classes."""
    values = import_module(module)
    public = getattr(values, "__all__", ())
    return [
        name for name in public if not callable(getattr(values, name)) or get_origin(getattr(values, name))
    ]


project = "layerprobe"
author = "The layerprobe developers"
copyright = author
version = release = layerprobe.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/*.ipynb", "gallery/*.py", "gallery/*.ipynb"]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]

# Pages

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "layerprobe"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {page: [] for page in ("index", "method", "related")}
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The interface

autosummary_generate = True
autosummary_ignore_module_all = False  # a module's public names are those of its __all__
autodoc_typehints = "none"  # numpydoc describes the types
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autosummary_context = {
    "exported": layerprobe.__all__,  # documented at the top only
    "data": {
        name: public_data(name)
        for name in re.findall(r"^   (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    },
}

# Examples

ORDER = [
    "probe_mlp",
    "audit_digits",
    "audit_embeddings",
    "audit_texts",
    "audit_cross_validation",
    "audit_cleanlab",
    "subspaces_and_angles",
    "noise_corrected_masc",
    "add_probe",
    "add_experiment",
]


def save_figure(block, block_vars, gallery_conf) -> str:
    """Save the figure that a block ends with, if it is none of pyplot, which the other scraper saves."""
    figure = block_vars["example_globals"].get("___")  # the value of the last expression
    if not isinstance(figure, Figure) or hasattr(figure, "number"):
        return ""
    path = next(block_vars["image_path_iterator"])
    figure.savefig(path, dpi=110)
    figure.number = 0  # once
    return figure_rst([path], gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "image_scrapers": ("matplotlib", save_figure),
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": ExplicitOrder([f"{name}.py" for name in ORDER]),
    "ignore_repr_types": r"matplotlib",
    "capture_repr": ("_repr_html_", "__repr__"),
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 1,
    "download_all_examples": False,
    "abort_on_example_error": True,
    "reset_argv": lambda *_: [],
}

# Links that leave docs/ work where the repository is shown. On the site they lead to a page of it, or to a
# copy of the file.

SITE_PAGES = {"README.md": "index.md", "results/README.md": "measurements.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#])")
INCLUDE = re.compile(r"```\{include\} (\S+)\n```")


def site_link(target: str, folder: Path) -> str:
    """Return the target of a link as it is on the site, relative to docs/.

    Parameters
    ----------
    target : str
        Relative to `folder`.
    folder : Path
        The folder of the page that has the link.
    """
    path = Path(os.path.normpath(folder / target))
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    if name in SITE_PAGES:
        return SITE_PAGES[name]
    if path.is_dir():
        return site_link("README.md", path) if (path / "README.md").exists() else site_link("..", path)
    if path.parent == ROOT / "examples" and path.suffix == ".py":
        return f"gallery/{path.stem}.rst"
    if path.suffix == ".py":
        return f"code/{name}.md"
    return f"../{name}"


def site_page(text: str, folder: Path) -> str:
    """Return the Markdown text of a page for the site."""
    text = LINK.sub(lambda match: site_link(match[1], folder), text)
    return INCLUDE.sub(lambda match: included(folder / match[1]), text)


def included(path: Path) -> str:
    """Return the text of a page outside docs/."""
    path = Path(os.path.normpath(path))
    return site_page(path.read_text(encoding="utf-8"), path.parent)


def read_page(app, docname, source) -> None:
    """Rewrite the links of one page."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".md" and path.parent == DOCS:
        for match in INCLUDE.finditer(source[0]):
            app.env.note_dependency(os.path.normpath(path.parent / match[1]))
        source[0] = site_page(source[0], path.parent)


def write_code_pages(app) -> None:
    """Write a page for each Python file that a page links to."""
    texts = [
        page.read_text(encoding="utf-8") for page in [*DOCS.glob("*.md"), *map(ROOT.joinpath, SITE_PAGES)]
    ]
    folders = [DOCS] * len([*DOCS.glob("*.md")]) + [(ROOT / name).parent for name in SITE_PAGES]
    linked = {
        site_link(match[1], folder)
        for text, folder in zip(texts, folders, strict=True)
        for match in LINK.finditer(text)
    }
    for page in linked:
        if page.startswith("code/"):
            name = page.removeprefix("code/").removesuffix(".md")
            up = "../" * (len(Path(page).parts) - 1)
            text = f"---\norphan: true\n---\n\n# {name}\n\n```{{literalinclude}} {up}../{name}\n```\n"
            target = DOCS / page
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_text(encoding="utf-8") != text:
                target.write_text(text, encoding="utf-8")


def write_formula(writer, node) -> None:
    """Write a formula as MathML, which browsers show without a script."""
    block = node.tagname == "math_block"
    formula = tex2mathml(node.astext(), as_block=block)
    writer.body.append(f"<div class='formula'>{formula}</div>" if block else formula)
    raise SkipNode


def is_foreign(app, what, name, member, skip, options) -> bool | None:
    """Return True for a member that a class inherits from another package, and None for the others."""
    function = getattr(member, "fget", getattr(member, "func", member))
    module = getattr(function, "__module__", None) or "layerprobe"
    return None if module.startswith("layerprobe") else True


def setup(app) -> None:
    """Connect the functions above to the build."""
    sys.path.insert(0, str(ROOT / "examples"))
    write_code_pages(app)
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.connect("source-read", read_page)
    app.connect("autodoc-skip-member", is_foreign)
