"""Safe output of the command line: terminal text, JSON, and CSV files for spreadsheets."""

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

# Python arguments whose names in an error message become the options of the same name.
ARGUMENTS = "policy holdout trusted test views layers pool probes variances inputs resize path_column "
ARGUMENTS += "text_column label_column class_names true_labels batch_size device memory seed jobs checkpoints"
# Control characters but the line feed, marks that reverse the direction of text, and halves of surrogates.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a cell that a spreadsheet evaluates


def printable(text: object) -> str:
    """Return a text in which characters that control the terminal or the direction of text are escaped."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def print_error(message: object) -> None:
    """Print one message of the command on stderr."""
    print(f"layerprobe: {printable(shell_spelling(str(message)))}", file=sys.stderr)


def shell_spelling(message: str) -> str:
    """Return a message with shell options: ``views=('flip', 'left')`` becomes ``--views flip left``.

    A name with an underscore is replaced also without the equals sign, unless it is part of a path.
    """
    names = ARGUMENTS.split()
    compound = "|".join(name for name in names if "_" in name)
    value = r"\(([^()]*)\)|'([^']*)'|\"([^\"]*)\""
    pattern = rf"(?<![\w./:'\"-])(?:({'|'.join(names)})=(?:{value})?|({compound})(?![\w./:'\"=]))"

    def option(match: re.Match[str]) -> str:
        name, *values, bare = match.groups()
        words = re.findall(r"[^\s,'\"]+", next(filter(None, values), ""))
        return " ".join(["--" + (name or bare).replace("_", "-"), *words])

    message = re.sub(r"list_layers\([^()]*\) shows", "--layers '*' --dry-run shows", message)
    return re.sub(pattern, option, message)


def print_table(table: "Table") -> None:
    """Print a table on stdout."""
    from rich.console import Console

    Console().print(table)


def as_json(value: Any) -> str:
    """Return a document as JSON; NumPy and torch values become Python's, NaN and infinity become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays, tensors and scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def write_csv(frame: "pd.DataFrame", path: Path) -> None:
    """Write a table without its index, all or nothing, so that a spreadsheet evaluates none of its cells.

    Texts that begin with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return get an apostrophe in front. A
    carriage return becomes a line feed, which stays inside its quoted cell.

    Parameters
    ----------
    frame : DataFrame
    path : Path

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    from layerprobe.utils.files import replace_file

    safe = frame.copy()
    for name in safe.select_dtypes(exclude=["number", "bool"]):
        safe[name] = safe[name].map(_safe_cell)
    replace_file(path, safe.to_csv(index=False).encode("utf-8", errors="replace"))


def _safe_cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    mark = "'" if cell.startswith(FORMULA) else ""
    return mark + cell.replace("\r", "\n")
