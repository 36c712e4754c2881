"""The description of one table."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes
    ----------
    title : str
        Its title, a sentence without a full stop.
    needs : tuple of str
        Names of the experiments whose rows it reads.
    build : callable
        From rows (columns `layerprobe.paper.rows.COLUMNS`) and histories (the columns of the run and one row
        per epoch) to the table; either may be empty. Columns pair, corruption, variant and scale come first.
        Accuracies and gains are shares, differences are in points.
    needs_history : bool
        Whether it reads the histories.
    """

    title: str
    needs: tuple[str, ...]
    build: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]
    needs_history: bool = False
