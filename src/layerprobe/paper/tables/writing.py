"""Tables as files: CSV with exact numbers, Markdown and LaTeX for reading."""

import os
from pathlib import Path

import pandas as pd

from layerprobe.errors import InputError
from layerprobe.paper.tables.comparing import verdict_counts
from layerprobe.paper.tables.registry import TABLES
from layerprobe.utils.files import replace_file

__all__ = ["caption", "readable", "to_latex", "to_markdown", "write_table"]

# How to print the columns of numbers that are not shares; shares are printed in percent.
FORMATS = {
    "corruption": "{:g}",
    "degree": "{:g}",
    "seeds": "{:d}",
    "difference": "{:+.1f}",
    "change": "{:+.1f}",
    "epoch": "{:.1f}",
    "epochs": "{:.1f}",
    "published_epochs": "{:.1f}",
    "components": "{:.1f}",
    "fewest": "{:.1f}",
    "most": "{:.1f}",
    "fit_flops": "{:.3g}",
    "predict_flops": "{:.3g}",
    "peak_bytes": "{:.3g}",
    "fit_seconds": "{:.3g}",
    "predict_seconds": "{:.3g}",
    "cka": "{:.3f}",
    "principal_cosine_noisy": "{:.3f}",
    "principal_cosine_true": "{:.3f}",
    "chance_noisy": "{:.3f}",
    "chance_true": "{:.3f}",
}
SPREAD = "_spread"
SMALL = "Rows of scale small are of networks trained or tested on a part of the images"
EXPECTED = "a difference from the published number is expected there and says nothing against it"
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def write_table(name: str, frame: pd.DataFrame, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a table as name.csv, name.md and name.tex into a folder, which is made; each file at once.

    Parameters
    ----------
    name : str
        One of `TABLES`.
    frame : DataFrame
        What its `build` returned.
    folder : path
        Where to write.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If there is no such table.
    """
    folder, title = Path(folder), caption(name, frame)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "csv": frame.to_csv(index=False),
        "md": f"{title}\n\n{to_markdown(frame)}",
        "tex": to_latex(frame, title, f"tab:{name}"),
    }
    paths = [folder / f"{name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        replace_file(path, text.encode())
    return paths


def caption(name: str, frame: pd.DataFrame) -> str:
    """Return a title: what the table shows, how comparisons end, what is small, which variants there are.

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
    if (frame["scale"] == "small").any():
        parts.append(f"{SMALL}: {EXPECTED}" if counts else SMALL)
    parts += [f"Variant {number}: {name}" for name, number in _variants(frame).items()]
    return " ".join(f"{part}." for part in parts)


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table as texts: shares in percent with one decimal, a mean and its spread as one "12.3 ± 0.4".

    A column says its unit; one that is empty throughout is left out. A variant is a number, for which the
    caption has the words; the pair's own recipe has none.
    """
    frame = frame.assign(variant=frame["variant"].map(_variants(frame)).fillna("").astype(object))
    columns = {}
    for name in map(str, frame):
        if name.endswith(SPREAD) or (len(frame) and (frame[name].isna() | frame[name].eq("")).all()):
            continue
        spreads = frame.get(f"{name}{SPREAD}", pd.Series(float("nan"), index=frame.index))
        cells = [_cell(name, *cell) for cell in zip(frame[name], spreads, strict=True)]
        columns[_heading(name, frame[name])] = cells
    return pd.DataFrame(columns, index=frame.index, dtype=object)


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a table as Markdown, for reading."""
    table = readable(frame)
    numbers = _headings_of_numbers(frame)
    rule = ["---:" if name in numbers else "---" for name in table]
    head, *body = _cells(table)
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in [head, rule, *body])
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def to_latex(frame: pd.DataFrame, title: str, label: str) -> str:
    """Return a table as LaTeX, for reading: a longtable with the rules of booktabs."""
    table = readable(frame)
    numbers = _headings_of_numbers(frame)
    align = "".join("r" if name in numbers else "l" for name in table)
    head, *body = (f"{' & '.join(map(_escaped, line))} \\\\" for line in _cells(table))
    lines = [
        "% needs the packages booktabs and longtable",
        f"\\begin{{longtable}}{{{align}}}",
        f"\\caption{{{_escaped(title)}}}\\label{{{label}}} \\\\",
        "\\toprule",
        head,
        "\\midrule",
        "\\endfirsthead",
        "\\toprule",
        head,
        "\\midrule",
        "\\endhead",
        "\\bottomrule",
        "\\endlastfoot",
        *body,
        "\\end{longtable}",
    ]
    return "\n".join(lines) + "\n"


def _variants(frame: pd.DataFrame) -> dict[str, str]:
    names = [name for name in frame["variant"].unique() if name]
    return {name: str(number) for number, name in enumerate(names, 1)}


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """Return the lines of a table of texts, its head first."""
    return [list(table), *(list(line) for line in table.itertuples(index=False, name=None))]


def _headings_of_numbers(frame: pd.DataFrame) -> set[str]:
    return {_heading(name, frame[name]) for name in map(str, frame) if _is_number(frame[name])}


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def _heading(name: str, column: pd.Series) -> str:
    words = name.replace("_", " ")
    if name in ("difference", "change"):
        return f"{words} (points)"
    return f"{words} (%)" if _is_number(column) and name not in FORMATS else words


def _cell(name: str, value: object, spread: float) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    form, factor = (FORMATS[name], 1) if name in FORMATS else ("{:.1f}", 100)
    text = form.format(factor * value)  # type: ignore[operator]
    return text if pd.isna(spread) else f"{text} ± {form.format(factor * spread)}"


def _escaped(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
