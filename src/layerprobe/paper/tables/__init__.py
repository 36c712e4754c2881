"""Every table of the paper, and our own: from tidy rows alone, beside the published numbers."""

from layerprobe.paper.tables.comparing import VERDICTS, beside_published, verdict_counts
from layerprobe.paper.tables.spec import Table
from layerprobe.paper.tables.writing import TABLES, caption, readable, to_latex, to_markdown, write_table

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
