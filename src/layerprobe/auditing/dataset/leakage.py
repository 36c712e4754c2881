"""Check that held-out rows were not used for training."""

import numpy as np

from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.errors import InputError

__all__ = ["check_disjoint"]

_SHOWN = 5


def check_disjoint(rows: LabelledDataset, held_out: LabelledDataset, what: str = "holdout") -> None:
    """Raise if held-out rows are among the training rows.

    Rows are compared by their fingerprints, so labels, order and form do not matter, and a copy of a row
    under another id is found as well.

    Parameters
    ----------
    rows : LabelledDataset
        The network's training rows.
    held_out : LabelledDataset
    what : str
        The name of the argument that gave `held_out`.

    Raises
    ------
    InputError
        If rows are shared; the message has their number and the ids of the first ones.
    """
    shared = np.flatnonzero(np.isin(held_out.fingerprints(), rows.fingerprints()))
    if not len(shared):
        return
    names = ", ".join(map(str, held_out.index[shared[:_SHOWN]]))
    raise InputError(
        f"{len(shared)} of the {held_out.n} rows of {what}= are among the training rows, so the network has "
        f"seen their labels: {names}{', ...' if len(shared) > _SHOWN else ''} (indices in {what}). "
        "Remove them, or train a network without them"
    )
