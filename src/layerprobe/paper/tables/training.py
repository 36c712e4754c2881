"""How training ended: Tables 2 (training accuracies) and 3 (test accuracies), from histories alone."""

import pandas as pd

from layerprobe.paper import published
from layerprobe.paper.rows import independent
from layerprobe.paper.tables.comparing import beside_published
from layerprobe.paper.tables.grouping import GROUP, means

__all__ = ["table2", "table3"]


def table2(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return the last epoch's accuracy on the training data: quantities train_noisy and train_true.

    Both are running accuracies in training mode, as the published one; train_true was not published.
    """
    return _last_epoch(history, {"train_noisy": "train_accuracy", "train_true": "true_accuracy"})


def table3(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return the last epoch's accuracy on the test data."""
    return _last_epoch(history, {"test": "test_accuracy"})


def _last_epoch(history: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    last = independent(history).sort_values("epoch", kind="stable").drop_duplicates("key", keep="last")
    last = last.sort_index()
    epochs = means(last.assign(value=last["epoch"].astype(float)), GROUP, "epochs")[[*GROUP, "epochs"]]
    parts = [
        means(last.assign(value=last[column]), GROUP).assign(quantity=name)
        for name, column in columns.items()
    ]
    ours = pd.concat(parts, ignore_index=True)
    ours = ours.merge(epochs, on=GROUP, how="left")
    theirs = published.training()
    known = [
        theirs[["pair", "corruption"]].assign(
            quantity=name, published=theirs[name], published_epochs=theirs["last_epoch"]
        )
        for name in columns
        if name in theirs
    ]
    return beside_published(ours, pd.concat(known), ["pair", "corruption", "quantity"])
