"""Self-contained HTML pages from templates: no script, no external resource, every text escaped."""

import base64
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype

from layerprobe.figures import encode
from layerprobe.utils.files import replace_file

if TYPE_CHECKING:
    from jinja2 import Environment

LONG = 60  # characters of a cell that stay on one line


def write_html(path: str | Path, template: str, **values: Any) -> None:
    """Render a template of this package into one HTML file, all or nothing; raise as `replace_file`.

    Parameters
    ----------
    path
        The file to write.
    template, **values
        As for `render`.
    """
    # A file name that is not UTF-8 holds half a surrogate pair, which becomes a question mark.
    replace_file(path, render(template, **values).encode("utf-8", errors="replace"))


def render(template: str, **values: Any) -> str:
    """Return a rendered template, HTML in which every text from `values` is escaped.

    Parameters
    ----------
    template : str
        Name of a file in ``layerprobe/templates``.
    **values
        Variables of the template.
    """
    return _environment().get_template(template).render(values)


@lru_cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("layerprobe"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["columns"] = table_columns
    environment.filters["svg_base64"] = lambda figure: base64.b64encode(encode(figure)).decode("ascii")
    return environment


@dataclass(frozen=True)
class Column:
    """One column of an HTML table."""

    name: str
    kind: str  # CSS class: "number" is right-aligned, "words" are long texts that wrap, or ""
    cells: list[str]


def table_columns(frame: pd.DataFrame) -> list[Column]:
    """Return the columns of a table as texts.

    Floats have as many decimals as one of the column needs, at most 4; a missing number is a dash.
    """
    columns = []
    for name, column in frame.items():
        if is_float_dtype(column):
            rounded = column.round(4)
            decimals = max((len(str(value).partition(".")[2]) for value in rounded.dropna()), default=0)
            cells = ["\u2013" if pd.isna(value) else f"{value:.{decimals}f}" for value in rounded]
        else:
            cells = list(map(str, column))
        longest = max(map(len, cells), default=0)
        kind = "number" if is_numeric_dtype(column.dtype) else "words" if longest > LONG else ""
        columns.append(Column(str(name), kind, cells))
    return columns
