"""The description of one table."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Table:
    """One table."""

    title: str  # its title, a sentence without a full stop
    needs: tuple[str, ...]  # names of the experiments whose rows it reads
    # From rows and histories, either of which may be empty, to the table, with the columns pair, corruption,
    # variant and scale first. Accuracies and gains are shares, differences are in points.
    build: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]
    needs_history: bool = False  # whether it reads the histories
    # From the table to a table of texts for reading, in place of `layerprobe.paper.tables.readable`.
    layout: Callable[[pd.DataFrame], pd.DataFrame] | None = None
