"""Rows that are to judge a network must not be among those that it was trained on."""

import numpy as np

from layerprobe.auditing.dataset.labelled import Rows
from layerprobe.errors import InputError

__all__ = ["check_disjoint"]

_NAMED = 5


def check_disjoint(rows: Rows, held_out: Rows, what: str = "holdout") -> None:
    """Refuse rows held out that the network was trained on: it knows their labels by heart.

    Rows are compared by their fingerprints, so that labels, order and form do not matter; copies of a row
    under different names are found too.

    Parameters
    ----------
    rows : Rows
        What the network was trained on.
    held_out : Rows
    what : str
        The argument that the rows held out came by.

    Raises
    ------
    InputError
        If they share rows; it says how many, and the indices of the first ones.
    """
    shared = np.flatnonzero(np.isin(held_out.fingerprints(), rows.fingerprints()))
    if not len(shared):
        return
    names = ", ".join(map(str, held_out.index[shared[:_NAMED]]))
    raise InputError(
        f"{len(shared)} of the {held_out.n} rows of {what}= are among the training rows, where the network "
        f"has seen their labels: {names}{', ...' if len(shared) > _NAMED else ''} (indices in {what}). "
        "Take them out of it, or train a network without them"
    )
