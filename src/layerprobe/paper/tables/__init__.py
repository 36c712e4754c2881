"""Every table of the paper, and our own: from tidy rows alone, beside the published numbers."""

from layerprobe.paper.tables import compared, own  # noqa: F401  # they register the tables, in this order
from layerprobe.paper.tables.compared import VERDICTS, beside_published, verdict_counts
from layerprobe.paper.tables.joining import TABLES, Table
from layerprobe.paper.tables.writing import caption, readable, to_latex, to_markdown, write_table

__all__ = [
    "TABLES",
    "VERDICTS",
    "Table",
    "beside_published",
    "caption",
    "readable",
    "to_latex",
    "to_markdown",
    "verdict_counts",
    "write_table",
]
