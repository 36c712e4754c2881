"""Tables as files: CSV with exact numbers, Markdown and LaTeX for reading."""

import os
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from layerprobe.errors import InputError
from layerprobe.paper.selection import LABELS
from layerprobe.paper.tables.compared import verdict_counts
from layerprobe.paper.tables.joining import TABLES
from layerprobe.paper.tables.own import COSTS
from layerprobe.utils.files import replace_file, write_csv

# Formats of the columns of numbers that are not shares; shares are printed in percent.
_COLUMNS = {
    "{:g}": ["corruption", "degree"],
    "{:d}": ["seeds"],
    "{:+.1f}": ["difference"],
    "{:.1f}": ["epoch", "epochs", "published_epochs", "components", "fewest", "most"],
    "{:.3g}": COSTS,
    "{:,d}": ["training_images", "parameters"],
    "{:.0f}": ["probe_seeds"],
    "{:.3f}": ["cka", *(f"{of}_{labels}" for of in ("principal_cosine", "chance") for labels in LABELS)],
}
FORMATS = {name: form for form, names in _COLUMNS.items() for name in names}
SPREAD = "_spread"
PARTS = "Rows of scale small and medium are of networks trained or tested on a part of the images or classes"
EXPECTED = "a difference from the published number is expected there and is no evidence against it"
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def write_table(name: str, frame: pd.DataFrame, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a table as name.csv, name.md and name.tex, each atomically.

    Parameters
    ----------
    name : str
    frame : DataFrame
        The result of its `build`.
    folder : path
        Created if missing.

    Raises
    ------
    InputError
        If there is no such table.
    """
    folder, title = Path(folder), caption(name, frame)
    folder.mkdir(parents=True, exist_ok=True)
    csv, markdown, latex = paths = [folder / f"{name}.{ending}" for ending in ("csv", "md", "tex")]
    write_csv(frame, csv)
    replace_file(markdown, f"{title}\n\n{to_markdown(frame, name)}".encode())
    replace_file(latex, to_latex(frame, title, f"tab:{name}", name).encode())
    return paths


def caption(name: str, frame: pd.DataFrame) -> str:
    """Return the caption of a table: its title, the verdicts, a note on small scale, and the variants.

    Parameters
    ----------
    name : str
    frame : DataFrame
        The result of its `build`.

    Raises
    ------
    InputError
        If there is no such table.
    """
    if name not in TABLES:
        raise InputError(f"Expected a table of {', '.join(TABLES)}, got {name!r}.")
    counts = verdict_counts(frame)
    parts = [TABLES[name].title]
    if counts:
        parts.append(f"Verdicts: {counts}")
    if frame["scale"].isin(["small", "medium"]).any():
        parts.append(f"{PARTS}: {EXPECTED}" if counts else PARTS)
    parts += [f"Variant {number}: {words}" for words, number in _variants(frame).items()]
    return " ".join(f"{part}." for part in parts)


def readable(frame: pd.DataFrame, name: str = "") -> pd.DataFrame:
    """Return a table as texts.

    Shares are in percent with one decimal; a mean and its spread are one cell, "12.3 ± 0.4". Headings give
    units. Empty columns are left out. A variant is a number that the caption explains; the pair's own recipe
    has none.

    Parameters
    ----------
    frame : DataFrame
        The result of the `build` of a table.
    name : str
        The name of the table; Tables 1 and 5 have a layout of their own.
    """
    frame = frame.assign(variant=frame["variant"].map(_variants(frame)).astype(object).fillna(""))
    if name and (layout := TABLES[name].layout):
        table = layout(frame)
        return table[[column for column in table if not len(table) or table[column].ne("").any()]]
    columns = {}
    for name in map(str, frame):
        if name.endswith(SPREAD) or (len(frame) and (frame[name].isna() | frame[name].eq("")).all()):
            continue
        spreads = frame.get(f"{name}{SPREAD}", pd.Series(float("nan"), index=frame.index))
        cells = [_cell(name, *cell) for cell in zip(frame[name], spreads, strict=True)]
        columns[_heading(name, frame[name])] = cells
    return pd.DataFrame(columns, index=frame.index, dtype=object)


def to_markdown(frame: pd.DataFrame, name: str = "") -> str:
    """Return a table as Markdown, for reading.

    Parameters
    ----------
    frame, name
        As for `readable`.
    """
    table = readable(frame, name)
    rule = ["---:" if right else "---" for right in _right_aligned(frame, table)]
    lines: list[list[str]] = [list(map(str, table)), rule, *table.to_numpy().tolist()]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def to_latex(frame: pd.DataFrame, title: str, label: str, name: str = "") -> str:
    """Return a table as a LaTeX longtable, for reading; it needs the packages booktabs and longtable.

    Parameters
    ----------
    frame, name
        As for `readable`.
    title, label : str
        Its caption, and its label for references.
    """
    table = readable(frame, name)
    align = "".join("r" if right else "l" for right in _right_aligned(frame, table))
    latex = str.maketrans(LATEX)
    escaped = table.map(lambda cell: cell.translate(latex)).rename(columns=lambda name: name.translate(latex))
    text = escaped.style.hide(axis="index").to_latex(
        environment="longtable", column_format=align, caption=title.translate(latex), label=label, hrules=True
    )
    return f"% needs the packages booktabs and longtable\n{text}"


def _variants(frame: pd.DataFrame) -> dict[str, str]:
    """Return the numbers of the variants by their words."""
    names = [name for name in frame["variant"].unique() if name]
    return {name: str(number) for number, name in enumerate(names, 1)}


def _right_aligned(frame: pd.DataFrame, table: pd.DataFrame) -> list[bool]:
    """Return for each column of the readable table whether it is numeric."""
    numbers = {_heading(name, frame[name]) for name in map(str, frame.select_dtypes("number"))}
    return [name in numbers or str(name).startswith("p = ") for name in table]


def _heading(name: str, column: pd.Series) -> str:
    words = name.replace("_", " ")
    if name == "difference":
        return f"{words} (points)"
    return f"{words} (%)" if is_numeric_dtype(column) and name not in FORMATS else words


def _cell(name: str, value: object, spread: float) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    shares = "{:.2f}" if name.startswith("improvement") else "{:.1f}"  # two decimals, as in Table 6
    form, factor = (FORMATS[name], 1) if name in FORMATS else (shares, 100)
    text = form.format(factor * value)  # type: ignore[operator]
    return text if pd.isna(spread) else f"{text} ± {form.format(factor * spread)}"
