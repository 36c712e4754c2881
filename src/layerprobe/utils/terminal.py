"""Text on a terminal: names and messages of files cannot control it."""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters but the line feed, marks that reverse the direction of text, and halves of surrogates.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """Return a text in which characters that control the terminal or the direction of text are escaped."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(text))


def say(text: object, *, error: bool = False) -> None:
    """Print text on stdout or stderr; the package prints by this function alone.

    Parameters
    ----------
    text : object
    error : bool
        Print on stderr.
    """
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=stream)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), **options: Any
) -> None:
    """Print a table on stdout; brackets in its cells are no markup.

    Parameters
    ----------
    columns, right : sequence of str
        Headings, and those of the columns that are aligned right.
    rows : iterable of sequence
    **options
        As for `rich.table.Table`, and no_wrap, a column that is cut instead of wrapped.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cut, title = options.pop("no_wrap", None), options.pop("title", None)
    table = Table(
        title=title and Text(printable(title), style="table.title"), title_justify="left", **options
    )
    for name in columns:
        justify: Any = "right" if name in right else "left"
        table.add_column(Text(printable(name)), justify=justify, overflow="ellipsis")
    for row in rows:  # the cells are not wrapped, as rich takes the space from columns that wrap first
        table.add_row(
            *(Text(printable(cell), no_wrap=name == cut) for name, cell in zip(columns, row, strict=True))
        )
    Console().print(table)
