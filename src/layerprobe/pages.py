"""One self-contained HTML file: no script, nothing loaded from elsewhere, every text escaped."""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NewType

import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype

from layerprobe.figures import svg
from layerprobe.utils.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Html",
    "facts_part",
    "figure_part",
    "folded",
    "paragraph",
    "section",
    "table_part",
    "text",
    "write_html",
    "write_report",
]

Html = NewType("Html", str)  # markup in which every text from outside is escaped

FEW = 8  # figures and tables that need no table of contents
LONG = 60  # letters of a cell that stay on one line
# default-src 'none' forbids every request and every script; the page holds what it needs.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --text: #1d2126; --soft: #5b6470; --line: #dfe3e8; --page: #fbfbfa;
  --card: #fff; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --soft: #9aa4af; --line: #31373e;
  --page: #15181b; --card: #1c2024; --accent: #6db8e8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 1rem; text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; }
.finding { font-size: 1.15rem; max-width: 46rem; margin: 0; padding-left: 1rem;
  border-left: 3px solid var(--accent); }
nav ol { columns: 20rem; column-gap: 3rem; margin: 0; padding-left: 1.6rem; font-size: .9rem; }
nav li { break-inside: avoid; }
a { color: var(--accent); }
figure { margin: 2.25rem 0 0; }
figure img { display: block; width: 100%; max-width: var(--drawn); min-width: min(36rem, var(--drawn));
  height: auto; margin: 0 auto; padding: .75rem; }
figure .scroll { background: #fff; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; margin: .6rem 0 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .42rem .9rem; text-align: left; white-space: nowrap; border-top: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
thead th { border-top: 0; white-space: normal; color: var(--soft); font-weight: 600; vertical-align: bottom; }
.number { text-align: right; }
td.words { white-space: normal; min-width: 18rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; margin: 0; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 2.75rem; }
summary { cursor: pointer; font-size: 1.15rem; font-weight: 700; margin-bottom: .75rem; }
@media (max-width: 34rem) { main { padding-top: 1.75rem; } h1 { font-size: 1.5rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } th, td { padding: .4rem .6rem; } }
@media print { :root { color-scheme: light; --text: #000; --soft: #444; --line: #bbb; --page: #fff;
  --card: #fff; } main { max-width: none; padding: 0; } .scroll { overflow: visible; border: 0; }
  figure img, td.words { min-width: 0; }
  table, th, td { font-size: .75rem; padding: .2rem .5rem; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def write_report(
    path: str | Path,
    *,
    title: str,
    finding: str,
    figures: Mapping[str, "Figure"],
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, object],
    appendix: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write a report as one HTML file that loads nothing and runs nothing.

    Parameters
    ----------
    path : path
        The file to write.
    title : str
        The page's title and heading.
    finding : str
        One plain sentence, set apart at the top.
    figures : mapping of caption to Figure
        Embedded as vector graphics.
    tables : mapping of heading to DataFrame
        Shown in full, without their index; a missing number is a dash.
    provenance : mapping of name to value
        How the results came about, at the end; values may be mappings themselves.
    appendix : mapping of heading to DataFrame, optional
        Long tables, folded until they are opened.
    """
    parts = {caption: figure_part(caption, figure) for caption, figure in figures.items()}
    parts |= {heading: section(heading, table_part(frame)) for heading, frame in tables.items()}
    contents = [_contents(parts)] if len(parts) > FEW else []
    numbered = [Html(f'<div id="part-{i}">{part}</div>') for i, part in enumerate(parts.values())]
    folds = [folded(heading, table_part(frame)) for heading, frame in (appendix or {}).items()]
    facts = section("Provenance", facts_part(provenance))
    write_html(path, title, [paragraph(finding, "finding"), *contents, *numbered, *folds, facts])


def write_html(path: str | Path, title: str, parts: Iterable[Html], *, style: str = "") -> None:
    """Write parts under a heading as one HTML file that loads nothing and runs nothing, all or nothing.

    Parameters
    ----------
    path : path
        The file to write.
    title : str
        The page's title and heading.
    parts : iterable of Html
        What the functions of this module return, or markup whose every text from outside went through them.
    style : str
        CSS rules of this page alone; nothing from outside belongs in here.

    Raises
    ------
    DataError
        If the folder does not exist.
    """
    page = _page(title, "\n".join([f"<h1>{text(title)}</h1>", *parts]), style)
    # Half a surrogate pair, from a file name that is no UTF-8, becomes a question mark.
    replace_file(path, page.encode("utf-8", errors="replace"))


def text(value: object) -> Html:
    """Return a text as markup that shows just this text."""
    return Html(escape(str(value)))


def paragraph(value: object, kind: str = "") -> Html:
    """Return a paragraph of plain text, of a CSS class if it is given."""
    return Html(f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>")


def section(heading: str, *parts: Html) -> Html:
    """Return parts under a heading."""
    return Html(f"<section><h2>{text(heading)}</h2>{''.join(parts)}</section>")


def folded(heading: str, *parts: Html) -> Html:
    """Return parts that are folded under a heading until they are opened."""
    return Html(f"<details><summary>{text(heading)}</summary>{''.join(parts)}</details>")


def facts_part(facts: Mapping[str, object]) -> Html:
    """Return names and their values, which may be mappings themselves."""
    pairs = "".join(f"<dt>{text(name)}</dt><dd>{text(_words(value))}</dd>" for name, value in facts.items())
    return Html(f"<dl>{pairs}</dl>")


def _contents(headings: Iterable[str]) -> Html:
    """Return links to the parts of a long page, by the first sentence of each heading."""
    items = "".join(
        f'<li><a href="#part-{i}">{text(heading.split(". ")[0])}</a></li>'
        for i, heading in enumerate(headings)
    )
    return Html(f"<nav><h2>Contents</h2><ol>{items}</ol></nav>")


def _page(title: str, body: str, style: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def figure_part(caption: str, figure: "Figure") -> Html:
    """Return a figure as vector graphics with its caption, at most a quarter larger than it was drawn."""
    data = base64.b64encode(svg(figure)).decode("ascii")
    words, width = text(caption), f"{1.25 * figure.get_figwidth():.4g}in"
    image = f'<img alt="{words}" style="--drawn:{width}" src="data:image/svg+xml;base64,{data}">'
    return Html(f"<figure>{_scroll(image)}<figcaption>{words}</figcaption></figure>")


def table_part(frame: pd.DataFrame) -> Html:
    """Return a table without its index; columns of numbers stand right, a missing number is a dash."""
    columns = [_texts(frame[name]) for name in frame]
    kinds = [_kind(frame[name], cells) for name, cells in zip(frame, columns, strict=True)]
    head = "".join(
        f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(frame.columns, kinds, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in zip(*columns, strict=True)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return _scroll(table)


def _kind(column: pd.Series, cells: list[Html]) -> str:
    """Return the CSS class of a column: numbers stand right, and a column of long texts wraps."""
    if is_numeric_dtype(column.dtype):
        return ' class="number"'
    return ' class="words"' if max(map(len, cells), default=0) > LONG else ""


def _scroll(content: str) -> Html:
    """Return what is too wide for a narrow screen in a box that scrolls, by keyboard too."""
    return Html(f'<div class="scroll" tabindex="0">{content}</div>')


def _texts(column: pd.Series) -> list[Html]:
    """Return the escaped cells of a column; floats have as many decimals as one of them needs, up to 4."""
    if is_float_dtype(column):
        rounded = column.round(4)
        decimals = max((len(str(value).partition(".")[2]) for value in rounded.dropna()), default=0)
        return [text("\u2013" if pd.isna(value) else f"{value:.{decimals}f}") for value in rounded]
    return [text(value) for value in column]


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    return str(value)
